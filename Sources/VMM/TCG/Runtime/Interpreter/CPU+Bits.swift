extension CPU {
    /// BT, BTS, BTR and BTC. A register bit offset reaches beyond the operand in memory, in both
    /// directions (SDM volume 2, "BT"). Only CF is defined; the rest is left alone.
    func bitTest<T: OperandWord>(
        _ op: OperationPointer, _ operation: GeneralOperation, _: T.Type
    ) throws(Fault) {
        let mask = T(truncatingIfNeeded: T.bitWidth &- 1)
        let bitOffset: T =
            op.form.contains(.immediateSource)
            ? T(truncatingIfNeeded: op.immediate) : register(op.source, as: T.self)
        let bit = bitOffset & mask
        guard op.form.contains(.memoryDestination) else {
            let value = register(op.destination, as: T.self)
            if operation != .bt { setRegister(op.destination, changed(value, bit, operation)) }
            setCarry((value &>> bit) & 1 != 0)
            return
        }
        let linear = try bitStringAddress(op, bitOffset, isWrite: operation != .bt)
        if operation == .bt {
            setCarry((try load(linear, as: T.self) &>> bit) & 1 != 0)
            return
        }
        try modifyMemory(linear, isLocked: op.form.contains(.locked), T.self) { value in
            setCarry((value &>> bit) & 1 != 0)
            return changed(value, bit, operation)
        }
    }

    private func bitStringAddress<T: OperandWord>(
        _ op: OperationPointer, _ bitOffset: T, isWrite: Bool
    ) throws(Fault) -> UInt64 {
        var offset = effectiveOffset(op)
        if !op.form.contains(.immediateSource) {
            let bits = Int64(bitPattern: signExtended(bitOffset))
            let words = bits >> Int64(T.bitWidth.trailingZeroBitCount)
            offset &+= UInt64(bitPattern: words &* Int64(MemoryLayout<T>.size))
            switch op.addressKind {
            case .flat64, .segment64: break
            case .address32In64, .flat32, .checked32: offset &= 0xFFFF_FFFF
            case .checked16: offset &= 0xFFFF
            }
        }
        return try linearAddress(
            op, offset: offset, size: MemoryLayout<T>.size, isWrite: isWrite)
    }

    @inline(__always)
    private func changed<T: OperandWord>(
        _ value: T, _ bit: T, _ operation: GeneralOperation
    ) -> T {
        let mask: T = 1 &<< bit
        switch operation {
        case .bts: return value | mask
        case .btr: return value & ~mask
        case .btc: return value ^ mask
        default: return value
        }
    }

    /// BT of a register.
    @inline(__always)
    func bitTestRegister<T: OperandWord>(_ op: OperationPointer, _ bitOffset: T) {
        let value = register(op.destination, as: T.self)
        setCarry((value &>> (bitOffset & T(truncatingIfNeeded: T.bitWidth &- 1))) & 1 != 0)
    }

    /// BSF and BSR. A zero source leaves the destination as it is, as AMD documents.
    func bitScan<T: OperandWord>(
        _ op: OperationPointer, forward: Bool, _: T.Type
    ) throws(Fault) {
        let value = try sourceValue(op, T.self)
        if value != 0 {
            let position =
                forward ? value.trailingZeroBitCount : T.bitWidth - 1 - value.leadingZeroBitCount
            setRegister(op.destination, T(truncatingIfNeeded: position))
        }
        setZero(value == 0)
    }

    func populationCount<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let value = try sourceValue(op, T.self)
        setRegister(op.destination, T(truncatingIfNeeded: value.nonzeroBitCount))
        setArithmeticFlags(value == 0 ? RFLAGS.zf : 0)
    }

    /// TZCNT and LZCNT. The other flags are undefined.
    func countZeros<T: OperandWord>(
        _ op: OperationPointer, _: T.Type, _ count: (T) -> Int
    ) throws(Fault) {
        let value = try sourceValue(op, T.self)
        let zeros = count(value)
        setRegister(op.destination, T(truncatingIfNeeded: zeros))
        setArithmeticFlags((value == 0 ? RFLAGS.cf : 0) | (zeros == 0 ? RFLAGS.zf : 0))
    }

    /// CRC32 with the Castagnoli polynomial, bit-reflected (SDM volume 2, "CRC32").
    func crc32<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let value = try sourceValue(op, T.self)
        var crc = UInt32(truncatingIfNeeded: self[op.destination])
        for byte in 0..<MemoryLayout<T>.size {
            crc ^= UInt32(truncatingIfNeeded: (value &>> T(truncatingIfNeeded: byte &* 8)) & 0xFF)
            for _ in 0..<8 { crc = (crc >> 1) ^ (crc & 1 != 0 ? 0x82F6_3B78 : 0) }
        }
        self[op.destination] = UInt64(crc)
    }
}
