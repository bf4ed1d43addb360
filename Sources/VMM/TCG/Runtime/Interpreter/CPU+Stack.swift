extension CPU {
    // MARK: 64-bit operands in 64-bit code

    @inline(__always)
    func push64(_ value: UInt64) throws(Fault) {
        let address = self[Register.rsp] &- 8
        try store(address, value)
        self[Register.rsp] = address
    }

    @inline(__always)
    func pop64() throws(Fault) -> UInt64 {
        let address = self[Register.rsp]
        let value = try load(address, as: UInt64.self)
        self[Register.rsp] = address &+ 8
        return value
    }

    // MARK: Any operand and stack size

    /// The part of RSP that addresses the stack.
    var stackMask: UInt64 {
        let key = fields.modeKey
        if is64Bit { return ~0 }
        return key & ModeKey.bigStack != 0 ? 0xFFFF_FFFF : 0xFFFF
    }

    func setStackPointer(_ value: UInt64) {
        let mask = stackMask
        let kept = mask == 0xFFFF ? self[Register.rsp] & ~mask : 0
        self[Register.rsp] = kept | (value & mask)
    }

    func pushValue(_ value: UInt64, size: UInt8) throws(Fault) {
        let offset = self[Register.rsp] &- UInt64(size)
        try storeStack(offset, value, size: size)
        setStackPointer(offset)
    }

    func popValue(size: UInt8) throws(Fault) -> UInt64 {
        let value = try loadStack(self[Register.rsp], size: size)
        setStackPointer(self[Register.rsp] &+ UInt64(size))
        return value
    }

    func loadStack(_ offset: UInt64, size: UInt8) throws(Fault) -> UInt64 {
        try loadSized(try stackAddress(offset, size: size, isWrite: false), size: size)
    }

    func storeStack(_ offset: UInt64, _ value: UInt64, size: UInt8) throws(Fault) {
        try storeSized(try stackAddress(offset, size: size, isWrite: true), value, size: size)
    }

    /// The linear address of a stack slot. One that cannot be an address is #SS, not #GP (SDM
    /// volume 3, section 6.15).
    private func stackAddress(
        _ offset: UInt64, size: UInt8, isWrite: Bool
    ) throws(Fault) -> UInt64 {
        if is64Bit && !(isCanonical(offset) && isCanonical(offset &+ UInt64(size - 1))) {
            throw .stackFault(0)
        }
        return try linearAddress(
            segment: SegmentRegister.ss, offset: offset & stackMask, size: Int(size),
            isWrite: isWrite)
    }

    func loadSized(_ linear: UInt64, size: UInt8) throws(Fault) -> UInt64 {
        switch size {
        case 1: UInt64(try load(linear, as: UInt8.self))
        case 2: UInt64(try load(linear, as: UInt16.self))
        case 4: UInt64(try load(linear, as: UInt32.self))
        default: try load(linear, as: UInt64.self)
        }
    }

    func storeSized(_ linear: UInt64, _ value: UInt64, size: UInt8) throws(Fault) {
        switch size {
        case 1: try store(linear, UInt8(truncatingIfNeeded: value))
        case 2: try store(linear, UInt16(truncatingIfNeeded: value))
        case 4: try store(linear, UInt32(truncatingIfNeeded: value))
        default: try store(linear, value)
        }
    }

    /// A general register of a run-time size.
    func setRegister(_ number: UInt8, _ value: UInt64, size: UInt8) {
        switch size {
        case 1: setRegister(number, UInt8(truncatingIfNeeded: value))
        case 2: setRegister(number, UInt16(truncatingIfNeeded: value))
        case 4: setRegister(number, UInt32(truncatingIfNeeded: value))
        default: setRegister(number, value)
        }
    }

    // MARK: Instructions

    func pushGeneral(_ op: OperationPointer) throws(Fault) {
        let value: UInt64
        if op.form.contains(.memorySource) {
            let linear = try linearAddress(op, size: Int(op.size), isWrite: false)
            value = try loadSized(linear, size: op.size)
        } else if op.form.contains(.immediateSource) {
            value = UInt64(bitPattern: op.immediate)
        } else {
            value = self[op.source]
        }
        try pushValue(value, size: op.size)
    }

    /// POP's memory operand is addressed with the stack pointer already moved.
    func popGeneral(_ op: OperationPointer) throws(Fault) {
        let before = self[Register.rsp]
        let value = try popValue(size: op.size)
        guard op.form.contains(.memoryDestination) else {
            setRegister(op.destination, value, size: op.size)
            return
        }
        do throws(Fault) {
            let linear = try linearAddress(op, size: Int(op.size), isWrite: true)
            try storeSized(linear, value, size: op.size)
        } catch {
            self[Register.rsp] = before
            throw error
        }
    }

    func pushAll(size: UInt8) throws(Fault) {
        let top = self[Register.rsp]
        // Faults must come before the first write.
        for slot in 1...8 as ClosedRange<UInt64> {
            try probeStackWrite(top &- slot &* UInt64(size), size: size)
        }
        for register in 0...7 as ClosedRange<UInt8> {
            try storeStack(top &- UInt64(register + 1) &* UInt64(size), self[register], size: size)
        }
        setStackPointer(top &- 8 &* UInt64(size))
    }

    func popAll(size: UInt8) throws(Fault) {
        let top = self[Register.rsp]
        var values = InlineArray<8, UInt64>(repeating: 0)
        for slot in 0..<8 {
            values[slot] = try loadStack(top &+ UInt64(slot) &* UInt64(size), size: size)
        }
        for slot in 0..<8 where slot != 3 {
            setRegister(UInt8(7 - slot), values[slot], size: size)
        }
        setStackPointer(top &+ 8 &* UInt64(size))
    }

    /// ENTER; the nesting level is in `source` (SDM volume 1, section 6.6.1).
    func enter(_ op: OperationPointer) throws(Fault) {
        let size = UInt64(op.size)
        let level = UInt64(op.source & 31)
        let mask = stackMask
        let frame = (self[Register.rsp] &- size) & mask
        let final = (frame &- level &* size &- UInt64(bitPattern: op.immediate)) & mask
        try probeStackWrite(final, size: op.size)
        try probeStackWrite(frame, size: op.size)
        var links = InlineArray<32, UInt64>(repeating: 0)
        if level > 1 {
            for index in 1..<level {
                links[Int(index)] = try loadStack(
                    self[Register.rbp] &- index &* size, size: op.size)
                try probeStackWrite(frame &- index &* size, size: op.size)
            }
        }
        if level > 0 { try probeStackWrite(frame &- level &* size, size: op.size) }
        try storeStack(frame, self[Register.rbp], size: op.size)
        if level > 1 {
            for index in 1..<level {
                try storeStack(frame &- index &* size, links[Int(index)], size: op.size)
            }
        }
        if level > 0 { try storeStack(frame &- level &* size, frame, size: op.size) }
        setRegister(Register.rbp, frame, size: op.size)
        setStackPointer(final)
    }

    /// Faults as a write to the stack would.
    func probeStackWrite(_ offset: UInt64, size: UInt8) throws(Fault) {
        try probeWrite(try stackAddress(offset, size: size, isWrite: true), size: Int(size))
    }

    func leaveGeneral(_ op: OperationPointer) throws(Fault) {
        let base = self[Register.rbp]
        let value = try loadStack(base, size: op.size)
        setRegister(Register.rbp, value, size: op.size)
        setStackPointer((base & stackMask) &+ UInt64(op.size))
    }
}
