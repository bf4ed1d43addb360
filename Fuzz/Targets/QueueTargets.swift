import Core
import Glibc
import Synchronization
import TestSupport

/// Split rings full of garbage.
struct SplitQueueTarget: FuzzTarget {
    static let name = "queue-split"
    static let about = "split virtqueues: rings, tables, changes while they are read"
    static let seeds = QueueRig.seeds(isPacked: false)
    private let rig: QueueRig

    init() throws { rig = try QueueRig() }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        try rig.run(&input, isPacked: false)
    }
}

/// Packed rings full of garbage.
struct PackedQueueTarget: FuzzTarget {
    static let name = "queue-packed"
    static let about = "packed virtqueues: rings, tables, changes while they are read"
    static let seeds = QueueRig.seeds(isPacked: true)
    private let rig: QueueRig

    init() throws { rig = try QueueRig() }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        try rig.run(&input, isPacked: true)
    }
}

/// Fills ring and tables with fields of which most are near what could be right, and then pops,
/// touches every byte range it gets, pushes and publishes; sometimes the driver changes everything
/// meanwhile.
private struct QueueRig {
    private let scratch: ScratchMemory
    private let chain = DescriptorChain(capacity: 4)
    // Two adjoining regions of 32 KiB, and one by itself at the very end of the addresses.
    private static let start: UInt64 = 0x1_0000
    private static let border: UInt64 = 0x1_8000
    private static let end: UInt64 = 0x2_0000
    private static let top: UInt64 = 0 &- 0x1000
    private static let tables: UInt64 = 0x1_2000

    init() throws {
        scratch = try ScratchMemory([
            (start: Self.start, size: 0x8000), (start: Self.border, size: 0x8000),
            (start: Self.top, size: 0x1000),
        ])
    }

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

    func run(_ input: inout FuzzInput, isPacked: Bool) throws -> Bool {
        let zeroes = [UInt8](repeating: 0, count: 0x8000)
        try scratch.memory.write(GuestAddress(Self.start), zeroes)
        try scratch.memory.write(GuestAddress(Self.border), zeroes)
        var size = isPacked ? 1 + input.below(16) : 1 << input.below(5)
        if input.rarely(64) { size = Int(input.number(UInt16.self)) }
        var features = isPacked ? VirtioFeature.packedRing : 0
        if !input.rarely(8) { features |= VirtioFeature.indirectDescriptors }
        if input.flag() { features |= VirtioFeature.eventIndex }
        let base = input.rarely(16) ? address(&input) : Self.start + 16 * UInt64(input.below(256))
        let ring = Ring(
            isPacked: isPacked, size: min(size, 16),
            layout: QueueLayout(
                size: UInt16(size), descriptors: GuestAddress(base),
                driver: GuestAddress(base &+ 0x200), device: GuestAddress(base &+ 0x300)))
        fill(ring, &input)
        var setup = QueueSetup(
            layout: ring.layout, features: features, memory: scratch.memory,
            state: isPacked ? .freshPacked : .freshSplit, kick: nil, call: nil)
        if input.rarely(8) {
            setup.state = QueueState(nextAvailable: input.number(), nextUsed: input.number())
        }
        let isRace = input.rarely(32)
        guard let queue = try? Virtqueue(setup) else { return false }
        if isRace { return try race(queue, ring, input) }
        return try serve(queue, ring, &input)
    }

    private func serve(_ queue: Virtqueue, _ ring: Ring, _ input: inout FuzzInput) throws -> Bool {
        var popped = 0
        queue.disableNotifications()
        // What the device writes can make descriptors available again; a ring cannot go on for
        // ever.
        while popped < 64, (try? queue.pop(into: chain)) == true {
            popped += 1
            if input.rarely(8) { fill(ring, &input) }
            try touch(chain)
            queue.push(chain, written: UInt32(truncatingIfNeeded: chain.writableLength))
            if input.flag() { _ = queue.publish() }
        }
        _ = queue.publish()
        _ = queue.enableNotifications()
        return popped > 0
    }

    private final class Stop: Sendable {
        let isSet = Atomic(false)
    }

    /// The driver writes the ring and the tables over and over while the device reads them.
    private func race(_ queue: Virtqueue, _ ring: Ring, _ input: FuzzInput) throws -> Bool {
        let stop = Stop()
        let memory = scratch.memory
        let state = Mutex(input)
        let thread = try Thread(name: "fuzz-driver") {
            while !stop.isSet.load(ordering: .relaxed) {
                state.withLock { Self.fill(memory, ring, &$0) }
            }
        }
        defer {
            stop.isSet.store(true, ordering: .relaxed)
            thread.join()
        }
        var popped = 0
        for _ in 0..<16 {
            guard let queue = try? Virtqueue(queue.setup) else { break }
            while popped < 256, (try? queue.pop(into: chain)) == true {
                popped += 1
                try touch(chain)
                queue.push(chain, written: 0)
                _ = queue.publish()
            }
        }
        return popped > 0
    }

    // MARK: Garbage

    private struct Ring: Sendable {
        let isPacked: Bool
        let size: Int
        let layout: QueueLayout
    }

    private func fill(_ ring: Ring, _ input: inout FuzzInput) {
        Self.fill(scratch.memory, ring, &input)
    }

    private static func fill(_ memory: GuestMemory, _ ring: Ring, _ input: inout FuzzInput) {
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

    private func address(_ input: inout FuzzInput) -> UInt64 { Self.address(&input) }

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

    /// Reads and writes the ends of every piece, all of which must be guest memory.
    private func touch(_ chain: DescriptorChain) throws {
        var sum: UInt8 = 0
        var total: UInt64 = 0
        // SAFETY: each piece is checked to be guest memory before it is touched.
        let readable = unsafe chain.readable
        for index in readable.indices {
            let piece = unsafe readable[index]
            try unsafe check(piece.iov_base, piece.iov_len)
            unsafe sum &+= piece.iov_base.load(as: UInt8.self)
            unsafe sum &+= (piece.iov_base + piece.iov_len - 1).load(as: UInt8.self)
            total += unsafe UInt64(piece.iov_len)
        }
        try require(total == chain.readableLength, "the readable pieces do not add up")
        total = 0
        let writable = unsafe chain.writable
        for index in writable.indices {
            let piece = unsafe writable[index]
            try unsafe check(piece.iov_base, piece.iov_len)
            unsafe piece.iov_base.storeBytes(of: sum, as: UInt8.self)
            unsafe (piece.iov_base + piece.iov_len - 1).storeBytes(of: sum, as: UInt8.self)
            total += unsafe UInt64(piece.iov_len)
        }
        try require(total == chain.writableLength, "the writable pieces do not add up")
    }

    /// Whether a range of the host's addresses lies in one region of the guest's memory.
    private func check(_ start: UnsafeMutableRawPointer?, _ count: Int) throws {
        let address = UInt(bitPattern: start)
        let isInside = scratch.memory.regions.contains { region in
            guard let host = unsafe scratch.memory.hostAddress(region.start, count: region.size)
            else { return false }
            let base = UInt(bitPattern: host)
            return address >= base && count > 0 && UInt(count) <= UInt(region.size)
                && address - base <= UInt(region.size) - UInt(count)
        }
        try require(isInside, "a piece of \(count) bytes is not guest memory")
    }
}
