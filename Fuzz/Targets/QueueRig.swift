import Core
import Glibc
import Synchronization
import TestSupport

/// Fills ring and tables with fields of which most are near what could be right, and then pops,
/// touches every byte range it gets, pushes and publishes; sometimes the driver changes everything
/// meanwhile.
struct QueueRig {
    let scratch: ScratchMemory
    private let chain = DescriptorChain(capacity: 4)
    // Two adjoining regions of 32 KiB, and one by itself at the very end of the addresses.
    static let start: UInt64 = 0x1_0000
    static let border: UInt64 = 0x1_8000
    static let end: UInt64 = 0x2_0000
    static let top: UInt64 = 0 &- 0x1000
    static let tables: UInt64 = 0x1_2000

    init() throws {
        scratch = try ScratchMemory([
            (start: Self.start, size: 0x8000), (start: Self.border, size: 0x8000),
            (start: Self.top, size: 0x1000),
        ])
    }

    func run(_ input: inout FuzzInput, isPacked: Bool) throws -> Bool {
        let (ring, setup) = try prepare(&input, isPacked: isPacked)
        let isRace = input.rarely(32)
        guard let queue = try? Virtqueue(setup) else { return false }
        if isRace { return try race(queue, ring, input) }
        return try serve(queue, ring, &input)
    }

    /// Fills the memory, and says where a ring is in it.
    func prepare(
        _ input: inout FuzzInput, isPacked: Bool
    ) throws -> (ring: Ring, setup: QueueSetup) {
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
            state: .fresh(features: features), kick: nil, call: nil)
        if input.rarely(8) {
            setup.state = QueueState(nextAvailable: input.number(), nextUsed: input.number())
        }
        return (ring, setup)
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
