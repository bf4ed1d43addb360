// The image of XSAVE and its kin in memory (SDM volume 1, section 13.4).

extension CPU {
    private typealias Layout = ExtendedStateLayout

    enum ImageDirection { case save, restore }

    /// The operand's linear address, after everything that is checked before memory.
    func extendedOperand(
        _ op: OperationPointer, size: Int, _ direction: ImageDirection
    ) throws(Fault) -> UInt64 {
        try requireXSAVE()
        if fields.cr0 & CR0.ts != 0 { throw .deviceNotAvailable }
        let linear = try linearAddress(op, size: size, isWrite: direction == .save)
        if linear & 63 != 0 { throw .generalProtection(0) }
        return linear
    }

    /// How far an image with these components reaches.
    func imageEnd(_ components: UInt64, _ compaction: UInt64) -> Int {
        var end = Layout.headerEnd
        for number in Self.componentNumbers(components & fields.extendedComponents) {
            let offset = Layout.host.offset(of: number, compaction: compaction)
            end = max(end, offset + Layout.host[number].size)
        }
        return end
    }

    /// Faults as the accesses to all parts would, so that they do not fault half-way.
    func probeImage(
        _ place: UInt64, _ components: UInt64, _ compaction: UInt64, _ direction: ImageDirection
    ) throws(Fault) {
        try probe(place, Layout.headerEnd, direction)
        for number in Self.componentNumbers(components & fields.extendedComponents) {
            let offset = Layout.host.offset(of: number, compaction: compaction)
            try probe(place &+ UInt64(offset), Layout.host[number].size, direction)
        }
    }

    private func probe(_ start: UInt64, _ size: Int, _ direction: ImageDirection) throws(Fault) {
        var place = start
        let last = start &+ UInt64(size - 1)
        while true {
            switch direction {
            case .save: try probeWrite(place, size: 1)
            case .restore: _ = try load(place, as: UInt8.self)
            }
            if place | 0xFFF == last | 0xFFF { return }
            place = (place | 0xFFF) &+ 1
        }
    }

    /// Writes bytes in pieces that are never misaligned.
    func copyOut(
        _ place: UInt64, _ count: Int, from source: UnsafeRawPointer
    ) throws(Fault) {
        for byte in stride(from: 0, to: count, by: 4) {
            // SAFETY: the caller has `count` bytes there, a multiple of 4.
            try store(
                place &+ UInt64(byte),
                unsafe source.loadUnaligned(fromByteOffset: byte, as: UInt32.self))
        }
    }

    /// The numbers of the components in a mask.
    static func componentNumbers(_ mask: UInt64) -> some Sequence<Int> {
        (2..<63).lazy.filter { mask >> UInt64($0) & 1 != 0 }
    }
}
