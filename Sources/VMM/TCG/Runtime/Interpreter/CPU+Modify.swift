internal import Synchronization

// Read-modify-write of any destination, atomic where LOCK asks for it and other CPUs run.

extension CPU {
    /// The source's value: memory, an immediate or a register.
    @inline(__always)
    func sourceValue<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) -> T {
        if op.form.contains(.memorySource) { return try loadOperand(op, as: T.self) }
        if op.form.contains(.immediateSource) { return T(truncatingIfNeeded: op.immediate) }
        return register(op.source, as: T.self)
    }

    @inline(__always)
    func setDestination<T: OperandWord>(_ op: OperationPointer, _ value: T) throws(Fault) {
        if op.form.contains(.memoryDestination) {
            try storeOperand(op, value)
        } else {
            setRegister(op.destination, value)
        }
    }

    /// Replaces the destination by what `body` makes of it. `body` may set flags, and may run more
    /// than once; faults come before it runs.
    @inline(__always)
    func modifyDestination<T: OperandWord>(
        _ op: OperationPointer, _: T.Type, _ body: (T) -> T
    ) throws(Fault) {
        guard op.form.contains(.memoryDestination) else {
            setRegister(op.destination, body(register(op.destination, as: T.self)))
            return
        }
        let linear = try linearAddress(op, size: MemoryLayout<T>.size, isWrite: true)
        try modifyMemory(linear, isLocked: op.form.contains(.locked), T.self, body)
    }

    @inline(__always)
    func modifyMemory<T: OperandWord>(
        _ linear: UInt64, isLocked: Bool, _: T.Type, _ body: (T) -> T
    ) throws(Fault) {
        // SAFETY: `writableHost` answers for this many bytes.
        if let host = unsafe writableHost(linear, size: MemoryLayout<T>.size) {
            if isLocked {
                if unsafe crossesLine(host, T.self) {
                    return try slowLockedModify(linear, T.self, body)
                }
                unsafe modifyAtomically(host, T.self, body)
            } else {
                unsafe host.storeBytes(of: body(host.loadUnaligned(as: T.self)), as: T.self)
            }
            return
        }
        if isLocked { return try slowLockedModify(linear, T.self, body) }
        try probeWrite(linear, size: MemoryLayout<T>.size)
        try store(linear, body(try load(linear, as: T.self)))
    }

    /// The flags before `body` ran are put back for another attempt, since it may read them.
    // SAFETY: see `compareExchange`.
    func modifyAtomically<T: OperandWord>(
        _ host: UnsafeMutableRawPointer, _: T.Type, _ body: (T) -> T
    ) {
        let result = unsafe state.pointee.flagResult
        let aux = unsafe state.pointee.flagAux
        var value = unsafe host.loadUnaligned(as: T.self)
        while true {
            let (done, found) = unsafe compareExchange(host, expected: value, desired: body(value))
            if done { return }
            unsafe state.pointee.flagResult = result
            unsafe state.pointee.flagAux = aux
            value = found
        }
    }

    /// LOCK CMPXCHG on the host. An address that is not aligned is atomic all the same, as the
    /// instruction promises (SDM volume 3, section 9.1.2.2), as long as it is in one cache line:
    /// many hosts slow who locks two down, or kill them (Linux's `split_lock_detect`).
    // SAFETY: the address has `T`'s size of mapped memory. `Atomic` wants alignment, and makes of
    // it nothing but the instruction, which does not.
    func compareExchange<T: OperandWord>(
        _ host: UnsafeMutableRawPointer, expected: T, desired: T
    ) -> (Bool, T) {
        let found: T
        switch MemoryLayout<T>.size {
        case 1:
            found = unsafe T(
                truncatingIfNeeded: host.assumingMemoryBound(to: Atomic<UInt8>.self).pointee
                    .compareExchange(
                        expected: UInt8(truncatingIfNeeded: expected),
                        desired: UInt8(truncatingIfNeeded: desired),
                        ordering: .sequentiallyConsistent
                    ).original)
        case 2:
            found = unsafe T(
                truncatingIfNeeded: host.assumingMemoryBound(to: Atomic<UInt16>.self).pointee
                    .compareExchange(
                        expected: UInt16(truncatingIfNeeded: expected),
                        desired: UInt16(truncatingIfNeeded: desired),
                        ordering: .sequentiallyConsistent
                    ).original)
        case 4:
            found = unsafe T(
                truncatingIfNeeded: host.assumingMemoryBound(to: Atomic<UInt32>.self).pointee
                    .compareExchange(
                        expected: UInt32(truncatingIfNeeded: expected),
                        desired: UInt32(truncatingIfNeeded: desired),
                        ordering: .sequentiallyConsistent
                    ).original)
        default:
            found = unsafe T(
                truncatingIfNeeded: host.assumingMemoryBound(to: Atomic<UInt64>.self).pointee
                    .compareExchange(
                        expected: UInt64(truncatingIfNeeded: expected),
                        desired: UInt64(truncatingIfNeeded: desired),
                        ordering: .sequentiallyConsistent
                    ).original)
        }
        return (found == expected, found)
    }
}
