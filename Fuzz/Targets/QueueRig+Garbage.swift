import Core
import TestSupport

// What the rig puts into rings and tables.
extension QueueRig {
    struct Ring: Sendable {
        let isPacked: Bool
        let size: Int
        let layout: QueueLayout
    }

    func fill(_ ring: Ring, _ input: inout FuzzInput) {
        Self.fill(scratch.memory, ring, &input)
    }

    static func fill(_ memory: GuestMemory, _ ring: Ring, _ input: inout FuzzInput) {
        let base = ring.layout.descriptors.rawValue
        for index in 0..<ring.size {
            putDescriptor(memory, base &+ UInt64(16 * index), ring, &input)
        }
        // Tables, where indirect descriptors mostly point.
        for table in 0..<input.below(4) {
            for index in 0..<input.below(4) {
                putDescriptor(
                    memory, tables + UInt64(64 * table + 16 * index), ring, &input)
            }
        }
        guard !ring.isPacked else {
            try? memory.write(ring.layout.driver, input.number(UInt32.self))
            return
        }
        let available = ring.layout.driver.rawValue
        for index in 0..<ring.size {
            let head = input.rarely(16) ? input.number() : UInt16(input.below(ring.size))
            try? memory.write(GuestAddress(available &+ 4 &+ UInt64(2 * index)), head)
        }
        let index = input.rarely(16) ? input.number() : UInt16(input.below(ring.size + 1))
        try? memory.write(GuestAddress(available &+ 2), index)
    }

    /// A descriptor, split or packed.
    private static func putDescriptor(
        _ memory: GuestMemory, _ place: UInt64, _ ring: Ring, _ input: inout FuzzInput
    ) {
        let kind = input.byte()
        let flags: UInt16 =
            switch kind & 15 {
            case 0...4: 0
            case 5...8: 1
            case 9...11: 2
            case 12: 3
            case 13: 4
            case 14: 6
            default: input.number()
            }
        let isTable = flags & 4 != 0 && kind & 0x80 == 0
        let start = isTable ? tables + UInt64(64 * input.below(4)) : address(&input)
        let length = isTable ? UInt32(16 * (1 + input.below(4))) : length(&input)
        let small = kind & 0x70 == 0x70 ? input.number() : UInt16(input.below(ring.size))
        var word = UInt64(length)
        if ring.isPacked {
            // Mostly available in the first lap.
            let marks: UInt16 = kind & 0x78 == 0x78 ? UInt16(input.byte()) << 8 : 0x80
            word |= UInt64(small) << 32 | UInt64(flags | marks) << 48
        } else {
            word |= UInt64(flags) << 32 | UInt64(small) << 48
        }
        try? memory.write(GuestAddress(place), start)
        try? memory.write(GuestAddress(place &+ 8), word)
    }

    func address(_ input: inout FuzzInput) -> UInt64 { Self.address(&input) }

    private static func address(_ input: inout FuzzInput) -> UInt64 {
        switch input.below(8) {
        case 7: input.number()
        case 6: border &- UInt64(input.below(64))
        case 5: top &+ UInt64(input.number(UInt16.self) & 0xfff)
        case 4: end &- UInt64(input.below(64))
        default: start &+ UInt64(input.number(UInt16.self))
        }
    }

    private static func length(_ input: inout FuzzInput) -> UInt32 {
        switch input.below(8) {
        case 7: input.number()
        case 6: 0
        case 5: UInt32(input.number(UInt16.self))
        default: 1 + UInt32(input.byte())
        }
    }

    // MARK: Seeds

    /// Four descriptors: each by itself, in one chain, or a table each; with and without event
    /// indices, in order and while the driver changes them.
    static func seeds(isPacked: Bool) -> [[UInt8]] {
        (0..<12).map { number in
            FuzzSeed.make { seed in
                seed.choose(isPacked ? 3 : 2, of: isPacked ? 16 : 5)
                seed.choose(0, of: 64)
                seed.choose(0, of: 8)
                seed.put(number & 1 != 0)
                seed.choose(0, of: 16)
                seed.choose(0, of: 256)
                for index in 0..<4 { putDescriptor(&seed, kind: number / 4, index) }
                seed.choose(1, of: 4)
                seed.choose(2, of: 4)
                for index in 0..<2 { putDescriptor(&seed, kind: 1, index) }
                if isPacked {
                    seed.put(0 as UInt32)
                } else {
                    for head in 0..<4 {
                        seed.choose(0, of: 16)
                        seed.choose(head, of: 4)
                    }
                    seed.choose(0, of: 16)
                    seed.choose(4, of: 5)
                }
                seed.choose(0, of: 8)
                seed.choose(number & 2 != 0 ? 31 : 0, of: 32)
                seed.putZeroes(32)
            }
        }
    }

    private static func putDescriptor(_ seed: inout FuzzSeed, kind: Int, _ index: Int) {
        switch kind {
        case 0: seed.put(9 as UInt8)
        case 1: seed.put(index == 3 ? 9 : index > 1 ? 12 : 5 as UInt8)
        default:
            // A table.
            seed.put(13 as UInt8)
            seed.choose(0, of: 4)
            seed.choose(1, of: 4)
            seed.choose(0, of: 4)
            return
        }
        seed.choose(0, of: 8)
        seed.put(UInt16(0x4000 + 0x100 * index))
        seed.choose(0, of: 8)
        seed.put(63 as UInt8)
        seed.choose(min(index + 1, 3), of: 4)
    }
}
