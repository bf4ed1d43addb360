// Leaf instructions with VEX that access memory element by element, and leave elements alone that are
// not selected: they do not fault.

// SAFETY: as in CPU+Leaf.swift; elements are inside 32 bytes.
extension CPU {
    /// An element of a vector.
    private func element(_ vector: VectorFrame.YMM, _ index: Int, size: UInt8) -> UInt64 {
        if size == 8 { return vector[index & 3] }
        return vector[index >> 1 & 3] >> UInt64(32 * (index & 1)) & 0xFFFF_FFFF
    }

    private func setElement(
        _ vector: inout VectorFrame.YMM, _ index: Int, size: UInt8, _ value: UInt64
    ) {
        if size == 8 {
            vector[index & 3] = value
        } else {
            let shift = UInt64(32 * (index & 1))
            let kept = vector[index >> 1 & 3] & ~(0xFFFF_FFFF << shift)
            vector[index >> 1 & 3] = kept | (value & 0xFFFF_FFFF) << shift
        }
    }

    private func isSelected(_ mask: VectorFrame.YMM, _ index: Int, size: UInt8) -> Bool {
        element(mask, index, size: size) >> UInt64(size * 8 - 1) != 0
    }

    // MARK: VMASKMOVPS, VPMASKMOVD and their sisters

    func maskedMove(_ op: OperationPointer, _ descriptor: LeafDescriptor) throws(Fault) {
        let size = descriptor.generalSize
        let count = Int(descriptor.size / size)
        let mask = ymm(op.detail & 15)
        let isWrite = descriptor.flags.contains(.writesMemory)
        let start = effectiveOffset(op)
        func address(_ index: Int) throws(Fault) -> UInt64 {
            try linearAddress(
                op, offset: start &+ UInt64(index * Int(size)), size: Int(size), isWrite: isWrite)
        }
        guard isWrite else {
            var result = VectorFrame.YMM()
            for index in 0..<count where isSelected(mask, index, size: size) {
                setElement(
                    &result, index, size: size, try loadSized(address(index), size: size))
            }
            return setYMM(op.destination, result)
        }
        let data = ymm(op.destination)
        // Nothing is written if any of the elements faults.
        for index in 0..<count where isSelected(mask, index, size: size) {
            try probeWrite(address(index), size: Int(size))
        }
        for index in 0..<count where isSelected(mask, index, size: size) {
            try storeOperand(
                address(index), size, SIMD2(element(data, index, size: size), 0))
        }
    }

    // MARK: Gathers

    /// Elements that have been read are in the destination, and the mask is zero up to there, when a
    /// later one faults (SDM volume 2, "VGATHERDPS"). The rest of the mask is as it was, on Zen.
    func gather(_ op: OperationPointer, _ descriptor: LeafDescriptor) throws(Fault) {
        let size = descriptor.size
        let count = Int(descriptor.offset)
        let maskNumber = op.detail & 15
        let indices = ymm(op.source)
        var mask = ymm(maskNumber)
        var result = ymm(op.destination)
        for index in 0..<count where isSelected(mask, index, size: size) {
            let number = element(indices, index, size: descriptor.generalSize)
            do throws(Fault) {
                let value = try loadSized(
                    elementAddress(op, number, descriptor), size: size)
                setElement(&result, index, size: size, value)
            } catch {
                for done in 0..<index { setElement(&mask, done, size: size, 0) }
                setYMM(maskNumber, mask)
                setYMM(op.destination, result)
                throw error
            }
        }
        clear(&result, from: count, size: size)
        setYMM(maskNumber, VectorFrame.YMM())
        setYMM(op.destination, result)
    }

    /// Zeroes the elements behind the first `count`.
    private func clear(_ vector: inout VectorFrame.YMM, from count: Int, size: UInt8) {
        for index in count..<Int(32 / size) { setElement(&vector, index, size: size, 0) }
    }

    private func elementAddress(
        _ op: OperationPointer, _ index: UInt64, _ descriptor: LeafDescriptor
    ) throws(Fault) -> UInt64 {
        let extended =
            descriptor.generalSize == 4 ? signExtended(UInt32(truncatingIfNeeded: index)) : index
        var offset = effectiveOffset(op) &+ extended &<< UInt64(op.scale)
        switch op.addressKind {
        case .flat64, .segment64: break
        default: offset &= 0xFFFF_FFFF
        }
        return try linearAddress(op, offset: offset, size: Int(descriptor.size), isWrite: false)
    }
}
