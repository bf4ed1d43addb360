internal import Accelerator

// IN and OUT (SDM volume 1, section 19.5).

extension CPU {
    func portIn(_ port: UInt16, size: Int) throws(Fault) -> UInt32 {
        try checkPort(port, size: size)
        noteBreakpoint(port: port, size: size)
        let value = owner.core.surface.readPort(port, size: size)
        return size == 4 ? value : value & (1 << UInt32(8 * size) - 1)
    }

    func portOut(_ port: UInt16, size: Int, _ value: UInt32) throws(Fault) {
        try checkPort(port, size: size)
        noteBreakpoint(port: port, size: size)
        let value = size == 4 ? value : value & (1 << UInt32(8 * size) - 1)
        note(owner.core.surface.writePort(port, size: size, value))
    }

    /// IOPL, or else the I/O permission bitmap in the TSS.
    func checkPort(_ port: UInt16, size: Int) throws(Fault) {
        if isRealMode || (!isVM86 && cpl <= iopl) { return }
        let task = segment(SegmentRegister.tr)
        guard task.isUsable, task.type & 8 != 0, task.limit >= 103 else {
            throw .generalProtection(0)
        }
        let map = UInt64(try loadSupervisor(task.base &+ 102, as: UInt16.self))
        let place = map + UInt64(port >> 3)
        // Two bytes are always read, so the byte after the map must be inside as well.
        if place + 1 > UInt64(task.limit) { throw .generalProtection(0) }
        let bits = try loadSupervisor(task.base &+ place, as: UInt16.self)
        let mask: UInt16 = (1 << UInt16(size) - 1) << (port & 7)
        if bits & mask != 0 { throw .generalProtection(0) }
    }

    private func noteBreakpoint(port: UInt16, size: Int) {
        guard fields.cr4 & CR4.de != 0, fields.debugRegisters[7] & 0xFF != 0 else { return }
        for number in 0..<4 where isBreakpointEnabled(number) && breakpointKind(number) == 2 {
            let (first, last) = breakpointRange(number)
            if UInt64(port) <= last && UInt64(port) + UInt64(size) > first {
                fields.pendingDebug |= 1 << UInt64(number)
            }
        }
    }
}
