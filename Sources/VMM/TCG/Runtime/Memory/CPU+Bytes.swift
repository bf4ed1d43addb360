internal import Glibc

/// A page that instructions may be fetched from.
// SAFETY: the host pointer is valid as long as the guest's memory, which outlives the CPU.
@safe struct FetchPage {
    /// The guest-physical address of the page.
    var physical: UInt64
    /// Where the page is in this process; `nil` where it is not memory.
    var host: UnsafeMutableRawPointer?
}

extension CPU {
    /// Reads up to 512 bytes; faults before the first byte.
    func readBytes(
        _ linear: UInt64, _ count: Int, into target: UnsafeMutableRawPointer
    ) throws(Fault) {
        try checkLinear(linear, size: count)
        let linear = linear & codeMask
        let first = min(count, 4096 - Int(linear & 0xFFF))
        // SAFETY: the caller's buffer has `count` bytes; host ranges stay inside one page.
        _ = unsafe try entry(linear, mode: dataMode, access: 0)
        if first < count {
            let second = (linear &+ UInt64(first)) & codeMask
            _ = unsafe try entry(second, mode: dataMode, access: 0)
            unsafe try readPiece(second, count - first, into: target + first)
        }
        unsafe try readPiece(linear, first, into: target)
    }

    private func readPiece(
        _ linear: UInt64, _ count: Int, into target: UnsafeMutableRawPointer
    ) throws(Fault) {
        // SAFETY: as in `readBytes`.
        let entry = unsafe try entry(linear, mode: dataMode, access: 0)
        let physical = unsafe entry.pointee.page | (linear & 0xFFF)
        if unsafe entry.pointee.physical & TLBFlags.slow == 0,
            let host = unsafe physicalHost(physical, count: UInt64(count))
        {
            unsafe memcpy(target, host, count)
            return
        }
        var done = 0
        while done < count {
            let size = min(8, count - done)
            var value = try load(
                linear &+ UInt64(done), size: size, mode: dataMode, mask: codeMask)
            unsafe memcpy(target + done, &value, size)
            done += size
        }
    }

    /// Writes up to 512 bytes; faults before the first byte.
    func writeBytes(
        _ linear: UInt64, _ count: Int, from source: UnsafeRawPointer
    ) throws(Fault) {
        try checkLinear(linear, size: count)
        let linear = linear & codeMask
        let first = min(count, 4096 - Int(linear & 0xFFF))
        // SAFETY: as in `readBytes`.
        _ = unsafe try entry(linear, mode: dataMode, access: PageFaultCode.write)
        if first < count {
            let second = (linear &+ UInt64(first)) & codeMask
            _ = unsafe try entry(second, mode: dataMode, access: PageFaultCode.write)
            unsafe try writePiece(second, count - first, from: source + first)
        }
        unsafe try writePiece(linear, first, from: source)
    }

    private func writePiece(
        _ linear: UInt64, _ count: Int, from source: UnsafeRawPointer
    ) throws(Fault) {
        // SAFETY: as in `readBytes`.
        let entry = unsafe try entry(linear, mode: dataMode, access: PageFaultCode.write)
        let physical = unsafe entry.pointee.page | (linear & 0xFFF)
        if unsafe entry.pointee.physical & TLBFlags.slow == 0,
            let host = unsafe physicalHost(physical, count: UInt64(count))
        {
            let others = prepareWrite(physical: physical, count: count)
            unsafe memcpy(host, source, count)
            announce(others, physical: physical)
            return unsafe allowFastWrites(entry, linear)
        }
        var done = 0
        while done < count {
            let size = min(8, count - done)
            var value: UInt64 = 0
            unsafe memcpy(&value, source + done, size)
            try store(
                linear &+ UInt64(done), size: size, value, mode: dataMode, mask: codeMask)
            done += size
        }
    }

    /// Faults as a write would, and changes nothing but accessed and dirty bits.
    func probeWrite(_ linear: UInt64, size: Int) throws(Fault) {
        try checkLinear(linear, size: size)
        let linear = linear & codeMask
        _ = unsafe try entry(linear, mode: dataMode, access: PageFaultCode.write)
        let left = 4096 - Int(linear & 0xFFF)
        if size > left {
            let second = (linear &+ UInt64(left)) & codeMask
            _ = unsafe try entry(second, mode: dataMode, access: PageFaultCode.write)
        }
    }

    /// The page that holds the code at a linear address (CS base already added).
    func translateFetch(_ linear: UInt64) throws(Fault) -> FetchPage {
        if is64Bit && !isCanonical(linear) { throw .generalProtection(0) }
        let page = linear & linearMask & ~0xFFF
        let mode = dataMode
        // SAFETY: the slot is part of the tables; the host address comes from the region table.
        let slot = unsafe slot(page, mode: mode)
        var physical = unsafe slot.pointee.physical
        if unsafe !slot.pointee.holds(page: page) || physical & TLBFlags.executable == 0 {
            let translation = try translate(
                linear & linearMask, mode: mode, access: PageFaultCode.fetch)
            physical = translation.physical
            if translation.isReadable { unsafe fill(slot, page: page, mode: mode, translation) }
        }
        noteCode(linear, physical)
        physical &= ~0xFFF
        return unsafe FetchPage(
            physical: physical, host: physicalHost(physical, count: 4096))
    }
}
