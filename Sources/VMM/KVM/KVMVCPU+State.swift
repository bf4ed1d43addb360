public import Accelerator
internal import CLinux
internal import Core

// The CPU's whole state, out of KVM and back.

extension KVMVCPU {
    /// The CPU's state. Only while it does not run.
    public func state() throws(AcceleratorError) -> KVMVCPUState {
        do {
            return try readState()
        } catch {
            throw AcceleratorError("the state of CPU \(index) cannot be read: \(error)")
        }
    }

    /// Makes the CPU what `state` says. Only while it does not run.
    public func setState(_ state: KVMVCPUState) throws(AcceleratorError) {
        guard state.version == KVMVCPUState.version else {
            throw AcceleratorError(
                "the state of CPU \(index) has version \(state.version), and only"
                    + " \(KVMVCPUState.version) is known")
        }
        do {
            try writeState(state)
        } catch {
            throw AcceleratorError("the state of CPU \(index) cannot be set: \(error)")
        }
    }

    func readState() throws(SystemError) -> KVMVCPUState {
        let fd = fd.rawValue
        var state = KVMVCPUState()
        try kvmGet("KVM_GET_REGS", fd, CLINUX_KVM_GET_REGS, &state.registers.value)
        try kvmGet("KVM_GET_SREGS", fd, CLINUX_KVM_GET_SREGS, &state.system.value)
        try kvmGet("KVM_GET_XCRS", fd, CLINUX_KVM_GET_XCRS, &state.extendedControl.value)
        try readExtendedImage()
        state.extended = xsaveImage
        state.localAPIC = [UInt8](repeating: 0, count: MemoryLayout<kvm_lapic_state>.size)
        try kvmBytes("KVM_GET_LAPIC", fd, CLINUX_KVM_GET_LAPIC, &state.localAPIC)
        try kvmGet("KVM_GET_VCPU_EVENTS", fd, CLINUX_KVM_GET_VCPU_EVENTS, &state.events.value)
        try kvmGet("KVM_GET_DEBUGREGS", fd, CLINUX_KVM_GET_DEBUGREGS, &state.debug.value)
        var activity = kvm_mp_state()
        try kvmGet("KVM_GET_MP_STATE", fd, CLINUX_KVM_GET_MP_STATE, &activity)
        state.activity = activity.mp_state
        state.modelSpecific = try readModelSpecific(machine.host.msrNumbers)
        return state
    }

    /// In an order in which nothing undoes what was set before: the APIC's mode comes with the
    /// system registers, its timer's deadline with the MSRs.
    func writeState(_ state: KVMVCPUState) throws(SystemError) {
        let fd = fd.rawValue
        try kvmSet("KVM_SET_SREGS", fd, CLINUX_KVM_SET_SREGS, state.system.value)
        try kvmSet("KVM_SET_REGS", fd, CLINUX_KVM_SET_REGS, state.registers.value)
        try kvmSet("KVM_SET_XCRS", fd, CLINUX_KVM_SET_XCRS, state.extendedControl.value)
        guard state.extended.count == xsaveImage.count,
            state.localAPIC.count == MemoryLayout<kvm_lapic_state>.size
        else { throw SystemError("KVM_SET_XSAVE", errno: 22) }
        var bytes = state.extended
        try kvmBytes("KVM_SET_XSAVE", fd, CLINUX_KVM_SET_XSAVE, &bytes)
        bytes = state.localAPIC
        try kvmBytes("KVM_SET_LAPIC", fd, CLINUX_KVM_SET_LAPIC, &bytes)
        try writeModelSpecific(state.modelSpecific)
        var events = state.events.value
        events.flags |= UInt32(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR)
        try kvmSet("KVM_SET_VCPU_EVENTS", fd, CLINUX_KVM_SET_VCPU_EVENTS, events)
        try kvmSet("KVM_SET_DEBUGREGS", fd, CLINUX_KVM_SET_DEBUGREGS, state.debug.value)
        try kvmSet(
            "KVM_SET_MP_STATE", fd, CLINUX_KVM_SET_MP_STATE,
            kvm_mp_state(mp_state: state.activity))
    }

    /// Fills `xsaveImage`.
    func readExtendedImage() throws(SystemError) {
        if xsaveImage.count > MemoryLayout<kvm_xsave>.size {
            try kvmBytes("KVM_GET_XSAVE2", fd.rawValue, CLINUX_KVM_GET_XSAVE2, &xsaveImage)
        } else {
            try kvmBytes("KVM_GET_XSAVE", fd.rawValue, CLINUX_KVM_GET_XSAVE, &xsaveImage)
        }
    }

    // MARK: Model-specific registers

    /// Those of `numbers` that the host gives.
    func readModelSpecific(
        _ numbers: [UInt32]
    ) throws(SystemError) -> [KVMVCPUState.ModelSpecific] {
        var result: [KVMVCPUState.ModelSpecific] = []
        var rest = numbers[...]
        while !rest.isEmpty {
            var entries = rest.map { kvm_msr_entry(index: $0, reserved: 0, data: 0) }
            // SAFETY: the array has as many entries as are announced.
            let count = Int(
                try checking(
                    "KVM_GET_MSRS",
                    unsafe clinux_kvm_get_msrs(fd.rawValue, &entries, UInt32(entries.count))))
            for entry in entries.prefix(count) {
                result.append(.init(number: entry.index, value: entry.data))
            }
            // The next one was refused.
            rest = rest.dropFirst(count + 1)
        }
        return result
    }

    /// Sets what the host takes: some refuse to have feature registers set, even to their value.
    func writeModelSpecific(_ values: [KVMVCPUState.ModelSpecific]) throws(SystemError) {
        var rest = values[...]
        while !rest.isEmpty {
            let entries = rest.map { kvm_msr_entry(index: $0.number, reserved: 0, data: $0.value) }
            // SAFETY: as above.
            let result = unsafe clinux_kvm_set_msrs(fd.rawValue, entries, UInt32(entries.count))
            // A refusal of the very first is an error on some hosts.
            let count = max(0, Int(result))
            if count < entries.count {
                let refused = entries[count]
                KVMVirtualMachine.log(
                    .debug,
                    "CPU \(index): KVM does not set MSR \(hexadecimal(UInt64(refused.index)))")
            }
            rest = rest.dropFirst(count + 1)
        }
    }
}
