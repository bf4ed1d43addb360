extension CPU {
    /// `base + index * scale + displacement`, not cut to the address size.
    @inline(__always)
    func addressSum(_ op: OperationPointer) -> UInt64 {
        self[op.base] &+ (self[op.index] &<< UInt64(op.scale))
            &+ UInt64(bitPattern: op.displacement)
    }

    /// The linear address of an operation's memory operand. `size` is what is accessed there.
    @inline(__always)
    func linearAddress(
        _ op: OperationPointer, size: Int, isWrite: Bool
    ) throws(Fault) -> UInt64 {
        if op.addressKind == .flat64 { return addressSum(op) }
        return try slowLinearAddress(op, size: size, isWrite: isWrite)
    }

    @inline(never)
    func slowLinearAddress(
        _ op: OperationPointer, size: Int, isWrite: Bool
    ) throws(Fault) -> UInt64 {
        try linearAddress(op, offset: effectiveOffset(op), size: size, isWrite: isWrite)
    }

    /// The effective address cut to the address size, before the segment's base is added.
    func effectiveOffset(_ op: OperationPointer) -> UInt64 {
        let sum = addressSum(op)
        switch op.addressKind {
        case .flat64, .segment64: return sum
        case .address32In64, .flat32, .checked32: return sum & 0xFFFF_FFFF
        case .checked16: return sum & 0xFFFF
        }
    }

    /// The linear address for another offset than the operand's own (of its second half, of a
    /// bit string's word).
    func linearAddress(
        _ op: OperationPointer, offset: UInt64, size: Int, isWrite: Bool
    ) throws(Fault) -> UInt64 {
        switch op.addressKind {
        case .flat64: return offset
        case .flat32: return offset & 0xFFFF_FFFF
        case .segment64, .address32In64: return addressBase(op.segment) &+ offset
        case .checked32, .checked16:
            return try checkedAddress(
                segment: op.segment, offset: offset, size: size, isWrite: isWrite)
        }
    }

    /// The linear address `offset` of a string or stack operand with the given address size.
    func linearAddress(
        segment: UInt8, offset: UInt64, size: Int, isWrite: Bool
    ) throws(Fault) -> UInt64 {
        if is64Bit { return addressBase(segment) &+ offset }
        return try checkedAddress(segment: segment, offset: offset, size: size, isWrite: isWrite)
    }
}
