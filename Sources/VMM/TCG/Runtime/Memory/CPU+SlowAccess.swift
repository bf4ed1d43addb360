internal import Glibc

// The slow half of guest memory access: page walks, faults, devices, page-crossing accesses,
// writes to pages with code, watched pages.

extension CPU {
    /// Reads up to 8 bytes in any way that the fast path cannot: after a page walk, across pages,
    /// from a device.
    @inline(never)
    func slowLoad(_ linear: UInt64, size: Int) throws(Fault) -> UInt64 {
        try checkLinear(linear, size: size)
        return try load(linear & codeMask, size: size, mode: dataMode, mask: codeMask)
    }

    /// Writes up to 8 bytes, likewise. Across pages both are checked before either is written.
    @inline(never)
    func slowStore(_ linear: UInt64, size: Int, _ value: UInt64) throws(Fault) {
        try checkLinear(linear, size: size)
        try store(linear & codeMask, size: size, value, mode: dataMode, mask: codeMask)
    }

    /// #GP(0) for a non-canonical address, #AC for an unaligned one in user code that asked for it.
    @inline(__always)
    func checkLinear(_ linear: UInt64, size: Int) throws(Fault) {
        if is64Bit {
            let last = linear &+ UInt64(size - 1)
            if !isCanonical(linear) || !isCanonical(last) { throw .generalProtection(0) }
        }
        if fields.tlbMode == UInt8(TLBMode.userAligned) {
            let isOdd = size & (size - 1) == 0 && linear & UInt64(size - 1) != 0
            if isOdd { throw .alignmentCheck }
        }
    }

    @inline(__always)
    func isCanonical(_ linear: UInt64) -> Bool {
        let sign = Int64(bitPattern: linear) >> 47
        return sign == 0 || sign == -1
    }

    /// Reads up to 8 bytes with the rights of a mode (0-2).
    /// - Parameter mask: the bits that count of the address behind a page border.
    func load(_ linear: UInt64, size: Int, mode: Int, mask: UInt64) throws(Fault) -> UInt64 {
        let left = 4096 - Int(linear & 0xFFF)
        if size > left {
            let second = (linear &+ UInt64(left)) & mask
            _ = unsafe try entry(linear, mode: mode, access: 0)
            _ = unsafe try entry(second, mode: mode, access: 0)
            let low = try load(linear, size: left, mode: mode, mask: mask)
            let high = try load(second, size: size - left, mode: mode, mask: mask)
            return low | high << UInt64(8 * left)
        }
        let entry = unsafe try entry(linear, mode: mode, access: 0)
        let physical = unsafe entry.pointee.page | (linear & 0xFFF)
        if unsafe entry.pointee.physical & TLBFlags.watched != 0 {
            noteWatched(linear, size: size, isWrite: false)
        }
        // SAFETY: the host address comes from the region table or from a fast entry.
        guard unsafe entry.pointee.physical & TLBFlags.device == 0,
            let host = unsafe physicalHost(physical, count: UInt64(size))
        else { return loadDevice(physical, size: size) }
        switch size {
        case 1: return unsafe UInt64(host.load(as: UInt8.self))
        case 2: return unsafe UInt64(host.loadUnaligned(as: UInt16.self))
        case 4: return unsafe UInt64(host.loadUnaligned(as: UInt32.self))
        case 8: return unsafe host.loadUnaligned(as: UInt64.self)
        default:
            var value: UInt64 = 0
            unsafe memcpy(&value, host, min(size, 8))
            return value
        }
    }

    /// Writes up to 8 bytes, likewise.
    func store(
        _ linear: UInt64, size: Int, _ value: UInt64, mode: Int, mask: UInt64
    ) throws(Fault) {
        if size > 4096 - Int(linear & 0xFFF) {
            if fields.isOnlyCPU {
                return try storeAcross(linear, size: size, value, mode: mode, mask: mask)
            }
            let lock = owner.core.busLock
            lock.lock()
            defer { lock.unlock() }
            return try storeAcross(linear, size: size, value, mode: mode, mask: mask)
        }
        let entry = unsafe try entry(linear, mode: mode, access: PageFaultCode.write)
        let physical = unsafe entry.pointee.page | (linear & 0xFFF)
        if unsafe entry.pointee.physical & TLBFlags.watched != 0 {
            noteWatched(linear, size: size, isWrite: true)
        }
        // SAFETY: as in `load`.
        guard unsafe entry.pointee.physical & TLBFlags.device == 0,
            let host = unsafe physicalHost(physical, count: UInt64(size))
        else { return storeDevice(physical, size: size, value) }
        let others = prepareWrite(physical: physical, count: size)
        switch size {
        case 1: unsafe host.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
        case 2: unsafe host.storeBytes(of: UInt16(truncatingIfNeeded: value), as: UInt16.self)
        case 4: unsafe host.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
        case 8: unsafe host.storeBytes(of: value, as: UInt64.self)
        default:
            var value = value
            unsafe memcpy(host, &value, min(size, 8))
        }
        announce(others, physical: physical)
        unsafe allowFastWrites(entry, linear)
    }

    /// Makes writes to an entry's page fast again where its code is gone. Every slow write calls
    /// it: a page that is only written in one way would stay slow otherwise.
    @inline(__always)
    func allowFastWrites(_ entry: UnsafeMutablePointer<TLBEntry>, _ linear: UInt64) {
        let physical = unsafe entry.pointee.physical
        guard physical & TLBFlags.slow == 0, !hasCode(physical: physical),
            fields.lockstep == Lockstep.Stage.off
        else { return }
        unsafe entry.pointee.writeTag = linear & ~0xFFF
        unsafe keepSlow(entry, linear)
    }

    /// A write that crosses a page border; both pages are checked first.
    private func storeAcross(
        _ linear: UInt64, size: Int, _ value: UInt64, mode: Int, mask: UInt64
    ) throws(Fault) {
        let left = 4096 - Int(linear & 0xFFF)
        let second = (linear &+ UInt64(left)) & mask
        _ = unsafe try entry(linear, mode: mode, access: PageFaultCode.write)
        _ = unsafe try entry(second, mode: mode, access: PageFaultCode.write)
        try store(linear, size: left, value, mode: mode, mask: mask)
        try store(
            second, size: size - left, value >> UInt64(8 * left), mode: mode, mask: mask)
    }

    // MARK: LOCK

    /// Replaces up to 8 bytes by what `body` makes of them, where only the slow path will do and
    /// other CPUs run. Memory inside one cache line is changed atomically. A value in two is
    /// changed under the machine's bus lock. A device sees a read and a write.
    func slowLockedModify<T: OperandWord>(
        _ linear: UInt64, _: T.Type, _ body: (T) -> T
    ) throws(Fault) {
        let size = MemoryLayout<T>.size
        try probeWrite(linear, size: size)
        if let memory = unsafe try lockableMemory(linear & codeMask, size: size) {
            // Where another provider's CPUs run, they do not know of the bus lock.
            if unsafe crossesLine(memory.host, T.self) && fields.apicAccesses < 0 {
                owner.core.busLock.lock()
                unsafe modifyAcrossLines(memory.host, T.self, body)
                owner.core.busLock.unlock()
            } else {
                unsafe modifyAtomically(memory.host, T.self, body)
            }
            return unsafe announce(memory.others, physical: memory.physical)
        }
        guard size > 4096 - Int(linear & 0xFFF) else {
            return try store(linear, body(try load(linear, as: T.self)))
        }
        let lock = owner.core.busLock
        lock.lock()
        defer { lock.unlock() }
        let value = try load(linear, as: T.self)
        try storeAcross(
            linear & codeMask, size: size, UInt64(truncatingIfNeeded: body(value)),
            mode: dataMode, mask: codeMask)
    }

    /// Memory that can be changed directly, and the CPUs that must hear of it (`announce`); `nil`
    /// for devices and across pages.
    func lockableMemory(
        _ linear: UInt64, size: Int
    ) throws(Fault) -> (host: UnsafeMutableRawPointer, physical: UInt64, others: UInt64)? {
        if size > 4096 - Int(linear & 0xFFF) { return nil }
        // SAFETY: as in `load`.
        let entry = unsafe try entry(linear, mode: dataMode, access: PageFaultCode.write)
        let physical = unsafe entry.pointee.page | (linear & 0xFFF)
        guard unsafe entry.pointee.physical & TLBFlags.device == 0,
            let host = unsafe physicalHost(physical, count: UInt64(size))
        else { return nil }
        if unsafe entry.pointee.physical & TLBFlags.watched != 0 {
            noteWatched(linear, size: size, isWrite: true)
        }
        let others = prepareWrite(physical: physical, count: size)
        unsafe allowFastWrites(entry, linear)
        return unsafe (host, physical, others)
    }
}
