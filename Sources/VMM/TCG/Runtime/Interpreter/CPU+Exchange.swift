internal import CLinux

extension CPU {
    /// XCHG with memory; the register is the source.
    func exchange<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let new = register(op.source, as: T.self)
        var old: T = 0
        try modifyDestination(op, T.self) { value in
            old = value
            return new
        }
        setRegister(op.source, old)
    }

    func exchangeAndAdd<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let addend = register(op.source, as: T.self)
        var old: T = 0
        guard op.form.contains(.memoryDestination) else {
            old = register(op.destination, as: T.self)
            let sum = alu(.add, old, addend)
            setRegister(op.source, old)
            setRegister(op.destination, sum)
            return
        }
        try modifyDestination(op, T.self) { value in
            old = value
            return alu(.add, value, addend)
        }
        setRegister(op.source, old)
    }

    func compareAndExchange<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let expected = register(Register.rax, as: T.self)
        let new = register(op.source, as: T.self)
        var old: T = 0
        if op.form.contains(.memoryDestination) {
            // Memory is written in any case (SDM volume 2, "CMPXCHG").
            try modifyDestination(op, T.self) { value in
                old = value
                return value == expected ? new : value
            }
        } else {
            old = register(op.destination, as: T.self)
            if old == expected { setRegister(op.destination, new) }
        }
        _ = alu(.cmp, expected, old)
        if old != expected { setRegister(Register.rax, old) }
    }

    /// CMPXCHG8B.
    func compareAndExchange8(_ op: OperationPointer) throws(Fault) {
        let expected = pair(high: Register.rdx, low: Register.rax)
        let new = pair(high: Register.rcx, low: Register.rbx)
        var old: UInt64 = 0
        try modifyDestination(op, UInt64.self) { value in
            old = value
            return value == expected ? new : value
        }
        if old != expected {
            setRegister(Register.rax, UInt32(truncatingIfNeeded: old))
            setRegister(Register.rdx, UInt32(truncatingIfNeeded: old >> 32))
        }
        setZero(old == expected)
    }

    private func pair(high: UInt8, low: UInt8) -> UInt64 {
        UInt64(register(high, as: UInt32.self)) << 32 | UInt64(register(low, as: UInt32.self))
    }

    /// CMPXCHG16B, always with the host's own; an address that is not a multiple of 16 faults.
    func compareAndExchange16(_ op: OperationPointer) throws(Fault) {
        let linear = try linearAddress(op, size: 16, isWrite: true)
        guard linear & 15 == 0 else { throw .generalProtection(0) }
        var low = self[Register.rax]
        var high = self[Register.rdx]
        let isEqual: Bool
        // SAFETY: 16 aligned bytes of memory in either case.
        if let host = unsafe writableHost(linear, size: 16) {
            isEqual = unsafe compareExchange16(host, &low, &high)
        } else {
            try probeWrite(linear, size: 16)
            if let memory = unsafe try lockableMemory(linear & codeMask, size: 16) {
                isEqual = unsafe compareExchange16(memory.host, &low, &high)
                unsafe announce(memory.others, physical: memory.physical)
            } else {
                isEqual = try compareExchange16(device: linear, &low, &high)
            }
        }
        if !isEqual {
            self[Register.rax] = low
            self[Register.rdx] = high
        }
        setZero(isEqual)
    }

    // SAFETY: the caller's 16 bytes are mapped and aligned.
    @inline(__always)
    private func compareExchange16(
        _ host: UnsafeMutableRawPointer, _ low: inout UInt64, _ high: inout UInt64
    ) -> Bool {
        let newLow = self[Register.rbx]
        let newHigh = self[Register.rcx]
        return unsafe clinux_compare_exchange_16(host, &low, &high, newLow, newHigh)
    }

    /// A device sees two reads and two writes.
    private func compareExchange16(
        device linear: UInt64, _ low: inout UInt64, _ high: inout UInt64
    ) throws(Fault) -> Bool {
        let oldLow = try load(linear, as: UInt64.self)
        let oldHigh = try load(linear &+ 8, as: UInt64.self)
        let isEqual = oldLow == low && oldHigh == high
        try store(linear, isEqual ? self[Register.rbx] : oldLow)
        try store(linear &+ 8, isEqual ? self[Register.rcx] : oldHigh)
        low = oldLow
        high = oldHigh
        return isEqual
    }
}
