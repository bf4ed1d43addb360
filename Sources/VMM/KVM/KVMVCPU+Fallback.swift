internal import Accelerator
internal import CLinux
internal import Core

// KVM gives up on instructions that its emulator lacks: on hosts with hardware virtualisation next
// to never, on those that emulate it often. The fallback executes the one instruction.

extension KVMVCPU {
    /// What the fallback gets and may change, in KVM's form.
    private struct Transfer {
        var registers = kvm_regs()
        var system = kvm_sregs()
        var debug = kvm_debugregs()
        var events = kvm_vcpu_events()
        var extendedControl = kvm_xcrs()
        var modelSpecific: [KVMVCPUState.ModelSpecific] = []
    }

    private static let invalidOpcode: UInt8 = 6

    /// In the order of `CPUState`; a host without RDTSCP does not give the last one.
    private static let modelSpecific: [UInt32] = [
        0x10, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102, 0x174, 0x175, 0x176,
        0xc000_0103,
    ]

    /// Executes the instruction on which KVM gave up. `nil`: the guest goes on.
    func fallBack() -> VCPUExit? {
        guard let fallback = machine.fallback else { return emulationFailure("") }
        var transfer = Transfer()
        var state = CPUState()
        let result: FallbackResult
        do {
            try read(&transfer, &state)
            if Self.hasOtherEvent(transfer.events) {
                try forgetInvalidOpcode(transfer.events)
                return nil
            }
            // Lent, not copied.
            swap(&state.extendedImage, &xsaveImage)
            result = fallback.execute(cpu: index, &state)
            swap(&state.extendedImage, &xsaveImage)
            if result == .unsupported {
                // The privilege level is SS's DPL.
                if transfer.system.ss.dpl == 0 {
                    return emulationFailure(", and neither can Apus's own CPU")
                }
                // A process must not end the machine: it gets what KVM would have given it.
                log(machine.refused.next(), transfer, "the process gets #UD")
                try raiseInvalidOpcode(transfer)
                return nil
            }
            log(machine.executed.next(), transfer, "Apus's own CPU does")
            try write(transfer, state)
        } catch {
            return failure("the CPU's state cannot be handed to Apus's own CPU: \(error)")
        }
        counters.fallbacks &+= 1
        switch result {
        case .effect(let effect): return .effect(effect)
        case .tripleFault: return .tripleFault
        case .done, .unsupported: return nil
        }
    }

    /// A kernel under an emulated KVM may bring thousands of them.
    private func log(
        _ report: RepetitionCounter.Report, _ transfer: Transfer, _ consequence: StaticString
    ) {
        switch report {
        case .none: break
        case .one:
            KVMVirtualMachine.log(
                .warning,
                "CPU \(index): KVM cannot execute \(failedBytes) at RIP"
                    + " \(hexadecimal(transfer.registers.rip)), so \(consequence)")
        case .sum(let count):
            KVMVirtualMachine.log(
                .warning,
                "KVM cannot execute instructions, \(count) so far, so \(consequence)")
        }
    }

    /// The instruction's bytes, or what KVM shows of them.
    private var failedBytes: String {
        var bytes = InlineArray<15, UInt8>(repeating: 0)
        // SAFETY: the array has the 15 bytes that are written.
        let count = unsafe withUnsafeMutablePointer(to: &bytes) {
            unsafe clinux_kvm_failed_instruction(
                shared, UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt8.self))
        }
        if count == 0 { return "an instruction" }
        return (0..<Int(count)).map {
            String(bytes[$0] >> 4, radix: 16) + String(bytes[$0] & 15, radix: 16)
        }.joined(separator: " ")
    }

    private func emulationFailure(_ addition: String) -> VCPUExit {
        failure("KVM cannot execute \(failedBytes)\(addition)")
    }

    // MARK: From KVM

    private func read(_ transfer: inout Transfer, _ state: inout CPUState) throws(SystemError) {
        let fd = fd.rawValue
        try kvmGet("KVM_GET_REGS", fd, CLINUX_KVM_GET_REGS, &transfer.registers)
        try kvmGet("KVM_GET_SREGS", fd, CLINUX_KVM_GET_SREGS, &transfer.system)
        try kvmGet("KVM_GET_DEBUGREGS", fd, CLINUX_KVM_GET_DEBUGREGS, &transfer.debug)
        try kvmGet("KVM_GET_VCPU_EVENTS", fd, CLINUX_KVM_GET_VCPU_EVENTS, &transfer.events)
        transfer.modelSpecific = try readModelSpecific(Self.modelSpecific)
        try kvmGet("KVM_GET_XCRS", fd, CLINUX_KVM_GET_XCRS, &transfer.extendedControl)
        try readExtendedImage()
        state.take(transfer.registers)
        state.take(transfer.system)
        state.debugRegisters = [
            transfer.debug.db.0, transfer.debug.db.1, transfer.debug.db.2, transfer.debug.db.3, 0,
            0, transfer.debug.dr6, transfer.debug.dr7,
        ]
        state.xcr0 = transfer.extendedControl.xcrs.0.value
        state.permittedXCR0 = permittedXCR0
        for register in transfer.modelSpecific { state[register.number] = register.value }
        state.hasInterruptShadow = transfer.events.interrupt.shadow != 0
        state.isNMIBlocked = transfer.events.nmi.masked != 0
        for word in 0..<64 {
            // SAFETY: an XSAVE image starts with the 512 bytes of FXSAVE.
            state.fxImage[word] = unsafe xsaveImage.withUnsafeBytes {
                unsafe $0.loadUnaligned(fromByteOffset: 8 * word, as: UInt64.self)
            }
        }
        state.pkru = pkru
    }

    private var pkru: UInt32 {
        guard let place = pkruOffset, place >= 0, place <= xsaveImage.count - 4 else { return 0 }
        // SAFETY: the header begins with the list of the components that are not 0, and PKRU lies
        // inside the image.
        return unsafe xsaveImage.withUnsafeBytes { bytes in
            let present = unsafe bytes.loadUnaligned(fromByteOffset: 512, as: UInt64.self)
            if present & Self.pkru == 0 { return 0 }
            return unsafe bytes.loadUnaligned(fromByteOffset: place, as: UInt32.self)
        }
    }

    // MARK: Back to KVM: what has changed

    private func write(_ old: Transfer, _ state: CPUState) throws(SystemError) {
        let fd = fd.rawValue
        var new = old
        state.give(&new.system)
        if KVMValue(value: new.system) != KVMValue(value: old.system) {
            try kvmSet("KVM_SET_SREGS", fd, CLINUX_KVM_SET_SREGS, new.system)
        }
        state.give(&new.registers)
        try kvmSet("KVM_SET_REGS", fd, CLINUX_KVM_SET_REGS, new.registers)
        new.debug.db = (
            state.debugRegisters[0], state.debugRegisters[1], state.debugRegisters[2],
            state.debugRegisters[3]
        )
        new.debug.dr6 = state.debugRegisters[6]
        new.debug.dr7 = state.debugRegisters[7]
        if KVMValue(value: new.debug) != KVMValue(value: old.debug) {
            try kvmSet("KVM_SET_DEBUGREGS", fd, CLINUX_KVM_SET_DEBUGREGS, new.debug)
        }
        let changed = old.modelSpecific.compactMap { register in
            let value = state[register.number]
            return value == register.value
                ? nil : KVMVCPUState.ModelSpecific(number: register.number, value: value)
        }
        if !changed.isEmpty { try writeModelSpecific(changed) }
        if state.xcr0 != old.extendedControl.xcrs.0.value {
            new.extendedControl.xcrs.0.value = state.xcr0
            try kvmSet("KVM_SET_XCRS", fd, CLINUX_KVM_SET_XCRS, new.extendedControl)
        }
        try writeExtended(state)
        // KVM may have queued the #UD that it would have raised.
        new.events.exception.pending = 0
        new.events.exception.injected = 0
        new.events.interrupt.shadow =
            state.hasInterruptShadow ? UInt8(KVM_X86_SHADOW_INT_STI | KVM_X86_SHADOW_INT_MOV_SS) : 0
        new.events.nmi.masked = state.isNMIBlocked ? 1 : 0
        if KVMValue(value: new.events) != KVMValue(value: old.events) { try setEvents(new.events) }
    }

    /// Whether KVM is about to deliver an event, other than the #UD that it may have queued because
    /// of the instruction. That comes first: its handler may well return to the instruction.
    static func hasOtherEvent(_ events: kvm_vcpu_events) -> Bool {
        let hasException = events.exception.pending != 0 || events.exception.injected != 0
        return hasException && events.exception.nr != invalidOpcode
            || events.interrupt.injected != 0 || events.nmi.injected != 0
    }

    private func forgetInvalidOpcode(_ old: kvm_vcpu_events) throws(SystemError) {
        guard old.exception.nr == Self.invalidOpcode else { return }
        var events = old
        events.exception.pending = 0
        events.exception.injected = 0
        try setEvents(events)
    }

    private func raiseInvalidOpcode(_ old: Transfer) throws(SystemError) {
        var events = old.events
        events.exception.pending = 0
        events.exception.injected = 1
        events.exception.nr = Self.invalidOpcode
        events.exception.has_error_code = 0
        events.interrupt.shadow = 0
        try setEvents(events)
    }

    /// Sets what belongs to this thread. What others may have sent since the events were read
    /// (NMIs, start-up IPIs) stays as it is in KVM.
    private func setEvents(_ events: kvm_vcpu_events) throws(SystemError) {
        var events = events
        events.flags = UInt32(KVM_VCPUEVENT_VALID_SHADOW)
        try kvmSet("KVM_SET_VCPU_EVENTS", fd.rawValue, CLINUX_KVM_SET_VCPU_EVENTS, events)
    }

    private func writeExtended(_ state: CPUState) throws(SystemError) {
        // SAFETY: an XSAVE image is the 512 bytes of FXSAVE and a header that begins with the list
        // of the components in it (SDM volume 1, section 13.4).
        let hasChanged = unsafe xsaveImage.withUnsafeMutableBytes { bytes in
            var hasChanged = state.hasExtendedChange
            for word in 0..<64 {
                let old = unsafe bytes.loadUnaligned(fromByteOffset: 8 * word, as: UInt64.self)
                if old == state.fxImage[word] { continue }
                unsafe bytes.storeBytes(
                    of: state.fxImage[word], toByteOffset: 8 * word, as: UInt64.self)
                hasChanged = true
            }
            let components = unsafe bytes.loadUnaligned(fromByteOffset: 512, as: UInt64.self)
            unsafe bytes.storeBytes(of: components | 3, toByteOffset: 512, as: UInt64.self)
            return hasChanged
        }
        guard hasChanged else { return }
        try kvmBytes("KVM_SET_XSAVE", fd.rawValue, CLINUX_KVM_SET_XSAVE, &xsaveImage)
    }
}
