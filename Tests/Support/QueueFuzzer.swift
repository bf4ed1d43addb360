internal import Core
internal import Glibc

/// Serves rings full of garbage. Each case fills ring and tables with random fields, most of them
/// near what could be right, and then pops, touches every byte range it gets, pushes and publishes.
/// It passes if nothing traps or faults.
public struct QueueFuzzer {
    private var random: SeededGenerator
    private let scratch: ScratchMemory
    private let chain = DescriptorChain(capacity: 4)
    // Two adjoining regions of 32 KiB, and one by itself at the very end of the addresses.
    private static let start: UInt64 = 0x1_0000
    private static let border: UInt64 = 0x1_8000
    private static let end: UInt64 = 0x2_0000
    private static let top: UInt64 = 0 &- 0x1000

    /// How many chains were popped, and how many rings were broken.
    public private(set) var popped = 0
    public private(set) var broken = 0
    public private(set) var refused = 0

    public init(seed: UInt64) throws {
        random = SeededGenerator(seed)
        scratch = try ScratchMemory([
            (start: Self.start, size: 0x8000), (start: Self.border, size: 0x8000),
            (start: Self.top, size: 0x1000),
        ])
    }

    private mutating func below(_ limit: UInt64) -> UInt64 { random.next() % limit }

    private mutating func address() -> UInt64 {
        switch below(8) {
        case 0: random.next()
        case 1: Self.border &- below(64)
        case 2: Self.top &+ below(0x1000)
        case 3: Self.end &- below(64)
        default: Self.start &+ below(0x1_0000)
        }
    }

    private mutating func length() -> UInt32 {
        switch below(8) {
        case 0: UInt32(truncatingIfNeeded: random.next())
        case 1: 0
        case 2, 3: UInt32(below(20)) * 16
        default: UInt32(below(2000))
        }
    }

    private mutating func flags() -> UInt16 {
        switch below(8) {
        case 0: UInt16(truncatingIfNeeded: random.next())
        case 1: 4
        case 2: 1 | 2
        case 3, 4: 1
        case 5: 2
        default: 0
        }
    }

    private mutating func write(_ address: UInt64, _ value: UInt64) throws {
        try scratch.memory.write(GuestAddress(address), value)
    }

    /// A descriptor, split or packed, anywhere.
    private mutating func putDescriptor(_ place: UInt64, size: UInt64, isPacked: Bool) throws {
        try write(place, address())
        let small = below(8) == 0 ? UInt16(truncatingIfNeeded: random.next()) : UInt16(below(size))
        var word = UInt64(length())
        if isPacked {
            // Mostly available in the first lap.
            let marks: UInt16 = below(8) == 0 ? UInt16(below(2)) << 15 : 0x80
            word |= UInt64(small) << 32 | UInt64(flags() | marks) << 48
        } else {
            word |= UInt64(flags()) << 32 | UInt64(small) << 48
        }
        try write(place + 8, word)
    }

    /// Runs one case.
    public mutating func run() throws {
        let isPacked = below(2) == 0
        let size = isPacked ? 1 + below(16) : 1 << below(5)
        var features = isPacked ? VirtioFeature.packedRing : 0
        if below(8) != 0 { features |= VirtioFeature.indirectDescriptors }
        if below(2) == 0 { features |= VirtioFeature.eventIndex }
        let base = Self.start + below(256) * 16
        let layout = QueueLayout(
            size: UInt16(below(64) == 0 ? below(65536) : size), descriptors: GuestAddress(base),
            driver: GuestAddress(base + 0x200), device: GuestAddress(base + 0x300))
        for index in 0..<size {
            try putDescriptor(base + 16 * index, size: size, isPacked: isPacked)
        }
        // Tables, wherever an indirect descriptor may point.
        for _ in 0..<16 {
            let place = Self.start + 0x1000 + below(0xe000)
            for index in 0..<(below(4) as UInt64) {
                try putDescriptor(place + 16 * index, size: size, isPacked: isPacked)
            }
        }
        if !isPacked {
            for index in 0..<size {
                let head = below(16) == 0 ? random.next() : below(size)
                try scratch.memory.write(
                    GuestAddress(base + 0x204 + 2 * index), UInt16(truncatingIfNeeded: head))
            }
            let index = below(16) == 0 ? random.next() : below(size + 1)
            try scratch.memory.write(
                GuestAddress(base + 0x202), UInt16(truncatingIfNeeded: index))
        } else {
            try write(base + 0x200, random.next())
        }
        let isFresh = below(8) != 0
        let state =
            isFresh
            ? (isPacked ? QueueState.freshPacked : .freshSplit)
            : QueueState(
                nextAvailable: UInt16(truncatingIfNeeded: random.next()),
                nextUsed: UInt16(truncatingIfNeeded: random.next()))
        serve(
            QueueSetup(
                layout: layout, features: features, memory: scratch.memory, state: state, kick: nil,
                call: nil))
    }

    private mutating func serve(_ setup: QueueSetup) {
        let queue: Virtqueue
        do { queue = try Virtqueue(setup) } catch {
            refused += 1
            return
        }
        queue.disableNotifications()
        // What the device writes can make descriptors available again; a ring cannot go on for
        // ever.
        for _ in 0..<64 {
            do { guard try queue.pop(into: chain) else { break } } catch {
                broken += 1
                break
            }
            popped += 1
            Self.touch(chain)
            queue.push(chain, written: UInt32(truncatingIfNeeded: chain.writableLength))
            if below(2) == 0 { _ = queue.publish() }
        }
        _ = queue.publish()
        _ = queue.enableNotifications()
    }

    /// Reads and writes the ends of every piece; what is not mapped would fault.
    private static func touch(_ chain: DescriptorChain) {
        var sum: UInt8 = 0
        var total: UInt64 = 0
        // SAFETY: that this is safe is what the fuzzer is there to find out.
        let readable = unsafe chain.readable
        for index in readable.indices {
            let piece = unsafe readable[index]
            unsafe sum &+= piece.iov_base.load(as: UInt8.self)
            unsafe sum &+= (piece.iov_base + piece.iov_len - 1).load(as: UInt8.self)
            total += unsafe UInt64(piece.iov_len)
        }
        precondition(total == chain.readableLength, "the readable pieces do not add up")
        total = 0
        let writable = unsafe chain.writable
        for index in writable.indices {
            let piece = unsafe writable[index]
            unsafe piece.iov_base.storeBytes(of: sum, as: UInt8.self)
            unsafe (piece.iov_base + piece.iov_len - 1).storeBytes(of: sum, as: UInt8.self)
            total += unsafe UInt64(piece.iov_len)
        }
        precondition(total == chain.writableLength, "the writable pieces do not add up")
    }
}
