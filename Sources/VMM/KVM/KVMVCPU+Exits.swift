internal import Accelerator
internal import CLinux
internal import Core

// What KVM returns to us for (Linux, Documentation/virt/kvm/api.rst, section 5).

// SAFETY: KVM fills the shared page before it returns, and the part of the union that belongs to
// the exit's reason is valid.
extension KVMVCPU {
    /// Does what the exit asks for. `nil`: the guest goes on.
    @inline(__always)
    func handleExit() -> VCPUExit? {
        let effect: MachineEffect
        switch unsafe Int32(truncatingIfNeeded: shared.pointee.exit_reason) {
        case KVM_EXIT_IO: effect = accessPort()
        case KVM_EXIT_MMIO: effect = accessMemory()
        case KVM_EXIT_IOAPIC_EOI:
            surface.endOfInterrupt(vector: unsafe shared.pointee.eoi.vector)
            return nil
        default: return handleRareExit()
        }
        hasOpenAccess = true
        return effect == .none ? nil : .effect(effect)
    }

    @inline(never)
    private func handleRareExit() -> VCPUExit? {
        switch unsafe Int32(truncatingIfNeeded: shared.pointee.exit_reason) {
        case KVM_EXIT_INTR, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_SET_TPR: return nil
        case KVM_EXIT_SHUTDOWN: return .tripleFault
        case KVM_EXIT_SYSTEM_EVENT: return systemEvent()
        case KVM_EXIT_INTERNAL_ERROR: return internalError()
        case KVM_EXIT_FAIL_ENTRY:
            let reason = unsafe shared.pointee.fail_entry.hardware_entry_failure_reason
            return failure("the processor refuses the guest's state, reason \(hexadecimal(reason))")
        case let reason: return failure("KVM stopped for an unexpected reason, \(reason)")
        }
    }

    private func systemEvent() -> VCPUExit? {
        switch unsafe Int32(truncatingIfNeeded: shared.pointee.system_event.type) {
        case KVM_SYSTEM_EVENT_SHUTDOWN: .effect(.powerOff)
        case KVM_SYSTEM_EVENT_RESET: .effect(.reset)
        case KVM_SYSTEM_EVENT_CRASH: .effect(.panicked)
        case let type: failure("KVM reports an unknown system event, \(type)")
        }
    }

    // What several accesses of one instruction ask for: the first that asks for something counts.

    // MARK: Ports

    /// IN and OUT, and INS and OUTS with several elements at once.
    private func accessPort() -> MachineEffect {
        let io = unsafe shared.pointee.io
        let size = Int(io.size)
        // SAFETY: KVM put `count` elements of `size` bytes at this place of the shared pages.
        var data = unsafe UnsafeMutableRawPointer(shared) + Int(io.data_offset)
        var effect = MachineEffect.none
        for _ in 0..<io.count {
            if Int32(io.direction) == KVM_EXIT_IO_OUT {
                let value: UInt32 =
                    switch size {
                    case 1: unsafe UInt32(data.load(as: UInt8.self))
                    case 2: unsafe UInt32(data.loadUnaligned(as: UInt16.self))
                    default: unsafe data.loadUnaligned(as: UInt32.self)
                    }
                let next = surface.writePort(io.port, size: size, value)
                if effect == .none { effect = next }
            } else {
                let value = surface.readPort(io.port, size: size)
                switch size {
                case 1: unsafe data.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
                case 2:
                    unsafe data.storeBytes(of: UInt16(truncatingIfNeeded: value), as: UInt16.self)
                default: unsafe data.storeBytes(of: value, as: UInt32.self)
                }
            }
            unsafe data += size
        }
        return effect
    }

    // MARK: Memory-mapped devices

    /// An access of 1 to 8 bytes. Devices see aligned accesses of 1, 2, 4 or 8 bytes.
    private func accessMemory() -> MachineEffect {
        let address = unsafe shared.pointee.mmio.phys_addr
        let count = unsafe min(8, Int(shared.pointee.mmio.len))
        let isWrite = unsafe shared.pointee.mmio.is_write != 0
        let written = unsafe clinux_kvm_mmio_value(shared)
        var read: UInt64 = 0
        var effect = MachineEffect.none
        var done = 0
        while done < count {
            let place = address &+ UInt64(done)
            var size = 8
            while size > count - done || place & UInt64(size - 1) != 0 { size >>= 1 }
            let shift = UInt64(8 * done)
            let mask = UInt64.max >> UInt64(64 - 8 * size)
            if let found = machine.window(at: place) {
                // Memory that KVM's emulator could not reach.
                if isWrite {
                    _ = found.window.store(found.offset, size: size, written >> shift)
                } else {
                    read |= (found.window.load(found.offset, size: size) ?? 0) << shift
                }
            } else if isWrite {
                let next = surface.writeMMIO(
                    GuestAddress(place), size: size, (written >> shift) & mask)
                if effect == .none { effect = next }
            } else {
                read |= (surface.readMMIO(GuestAddress(place), size: size) & mask) << shift
            }
            done += size
        }
        if !isWrite { unsafe clinux_kvm_set_mmio_value(shared, read) }
        return effect
    }

    // MARK: Memory that is not there

    /// KVM has met a page that cannot be reached: a part of a window behind which the file has become
    /// shorter. The page becomes one of zeroes. Newer kernels say where it is; for others the
    /// fallback does the access. KVM's own emulator takes such a page for a device's.
    @inline(never)
    func handleMemoryFault() -> VCPUExit? {
        let address = unsafe clinux_kvm_fault_address(shared)
        guard address != UInt64.max else { return fallBack() }
        // Where there is no window any more, another CPU has moved it, and this one comes to a device.
        let outcome = machine.window(at: address).map { $0.window.touch($0.offset) }
        let isStuck = faults.isStuck(
            at: address, run: counters.exits, isMended: outcome == .mended)
        return isStuck ? failure("KVM cannot reach the memory at \(hexadecimal(address))") : nil
    }

    // MARK: Failures

    private func internalError() -> VCPUExit? {
        let suberror = unsafe Int32(truncatingIfNeeded: shared.pointee.internal.suberror)
        switch suberror {
        case KVM_INTERNAL_ERROR_EMULATION: return fallBack()
        case KVM_INTERNAL_ERROR_SIMUL_EX: return failure("KVM met two exceptions at once")
        case KVM_INTERNAL_ERROR_DELIVERY_EV:
            return failure("KVM cannot deliver an event: the guest's tables lie where no memory is")
        default: return failure("KVM reports internal error \(suberror)")
        }
    }

    /// Why the CPU cannot go on, in one sentence with the place.
    @inline(never)
    func failure(_ reason: String) -> VCPUExit {
        var registers = kvm_regs()
        let isKnown =
            (try? kvmGet("KVM_GET_REGS", fd.rawValue, CLINUX_KVM_GET_REGS, &registers)) != nil
        return .internalError(isKnown ? "\(reason), at RIP \(hexadecimal(registers.rip))" : reason)
    }

    func hexadecimal(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
}
