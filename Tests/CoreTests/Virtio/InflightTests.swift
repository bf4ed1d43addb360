import Core
import TestSupport
import Testing

/// A ring whose device dies and comes back, with the memory for what is in flight.
private final class MortalDevice {
    let scratch: ScratchMemory
    let driver: DriverQueue
    let region: InflightRegion
    let regionBytes: MemoryMapping
    var queue: Virtqueue
    var taken: [DescriptorChain] = []

    init(_ kind: RingKind, size: UInt16 = 8) throws {
        scratch = try ScratchMemory()
        driver = DriverQueue(
            scratch, size: size,
            features: kind.features | VirtioFeature.version1 | VirtioFeature.indirectDescriptors,
            tableSize: 4)
        let bytes = InflightRegion.byteCount(entries: size, isPacked: kind.isPacked)
        regionBytes = try MemoryMapping(anonymous: bytes)
        region = try #require(
            InflightRegion(regionBytes, offset: 0, entries: size, isPacked: kind.isPacked))
        queue = try Self.makeQueue(driver, scratch, region)
    }

    private static func makeQueue(
        _ driver: DriverQueue, _ scratch: ScratchMemory, _ region: InflightRegion
    ) throws -> Virtqueue {
        var setup = driver.setup(scratch.memory)
        setup.inflight = region
        return try Virtqueue(setup)
    }

    /// Another process takes over what the shared memory says.
    func crash() throws {
        taken = []
        queue = try Self.makeQueue(driver, scratch, region)
    }

    /// The driver sends a request whose contents are its token.
    func send(_ token: UInt8, buffers: Int = 2, style: DescriptorStyle = .direct) -> Bool {
        let first = scratch.place([token])
        let others = (1..<buffers).map { _ in scratch.place([0xee]) }
        let isSent = driver.add(
            readable: [first] + others, writable: [], style: style, token: UInt64(token))
        _ = driver.publish()
        return isSent
    }

    /// The device takes a request.
    /// - Returns: its token.
    func take() throws -> UInt8? {
        let chain = DescriptorChain()
        guard try queue.pop(into: chain) else { return nil }
        taken.append(chain)
        return chain.readBytes(at: 0, count: 1).first
    }

    func takeAll() throws -> [UInt8] {
        var tokens: [UInt8] = []
        while let token = try take() { tokens.append(token) }
        return tokens
    }

    func push(_ position: Int) { queue.push(taken.remove(at: position), written: 0) }

    /// What the driver gets back.
    func collect() throws -> [UInt64] {
        var tokens: [UInt64] = []
        while let used = try driver.popUsed() { tokens.append(used.token) }
        return tokens
    }

    subscript(byte place: Int) -> UInt8 {
        get { unsafe regionBytes.base.load(fromByteOffset: place, as: UInt8.self) }
        set {
            unsafe regionBytes.base.storeBytes(of: newValue, toByteOffset: place, as: UInt8.self)
        }
    }

    subscript(half place: Int) -> UInt16 {
        get { unsafe regionBytes.base.load(fromByteOffset: place, as: UInt16.self) }
        set {
            unsafe regionBytes.base.storeBytes(of: newValue, toByteOffset: place, as: UInt16.self)
        }
    }
}

@Suite("A queue that notes what is in flight")
struct InflightTests {
    @Test(
        "yields what was taken and not given back, in order, before anything new",
        arguments: RingKind.allCases)
    func resubmits(kind: RingKind) throws {
        let device = try MortalDevice(kind)
        for token in 1...3 { #expect(device.send(UInt8(token))) }
        #expect(try device.takeAll() == [1, 2, 3])
        device.push(1)
        _ = device.queue.publish()
        #expect(device.send(4, buffers: 1))
        try device.crash()
        #expect(device.queue.enableNotifications())
        #expect(try device.takeAll() == [1, 3, 4])
        for _ in 0..<3 { device.push(0) }
        _ = device.queue.publish()
        #expect(try device.collect() == [2, 1, 3, 4])
    }

    @Test("takes back what was pushed but not published", arguments: RingKind.allCases)
    func unpublished(kind: RingKind) throws {
        let device = try MortalDevice(kind)
        for token in 1...3 { #expect(device.send(UInt8(token))) }
        #expect(try device.takeAll() == [1, 2, 3])
        device.push(0)
        device.push(0)
        try device.crash()
        #expect(try device.takeAll() == [1, 2, 3])
        // In another order than before, so that a used entry that was left behind would be noticed.
        device.push(2)
        _ = device.queue.publish()
        #expect(try device.collect() == [3])
        device.push(1)
        _ = device.queue.publish()
        #expect(try device.collect() == [2])
        device.push(0)
        _ = device.queue.publish()
        #expect(try device.collect() == [1])
    }

    @Test("keeps indirect and long requests", arguments: RingKind.allCases)
    func shapes(kind: RingKind) throws {
        let device = try MortalDevice(kind)
        #expect(device.send(1, buffers: 4, style: .indirect))
        #expect(device.send(2, buffers: 5))
        #expect(try device.takeAll() == [1, 2])
        try device.crash()
        #expect(try device.takeAll() == [1, 2])
        #expect(device.taken.map { $0.readableLength } == [4, 5])
        device.push(1)
        device.push(0)
        _ = device.queue.publish()
        #expect(try device.collect() == [2, 1])
        #expect(device.driver.freeCount == 8)
    }

    @Test("believes the used ring when the process died before noting the batch (split)")
    func splitLastBatch() throws {
        let device = try MortalDevice(.split)
        for token in 1...3 { #expect(device.send(UInt8(token), buffers: 1)) }
        #expect(try device.takeAll() == [1, 2, 3])
        device.push(0)
        device.push(1)
        _ = device.queue.publish()
        // As if it had died between the index and what follows: used_idx (14) is old, and the
        // entries of 16 bytes from 16 are all still marked.
        device[half: 14] = 0
        for head in 0..<3 { device[byte: 16 + 16 * head] = 1 }
        try device.crash()
        #expect(try device.takeAll() == [2])
        #expect(device[half: 14] == 2)
        device.push(0)
        _ = device.queue.publish()
        #expect(try device.collect() == [1, 3, 2])
    }

    @Test("believes the ring when the process died before noting the batch (packed)")
    func packedLastBatch() throws {
        let device = try MortalDevice(.packed)
        for token in 1...3 { #expect(device.send(UInt8(token), buffers: 1)) }
        #expect(try device.takeAll() == [1, 2, 3])
        let oldFreeHead = device[half: 14]
        device.push(0)
        device.push(1)
        _ = device.queue.publish()
        // old_free_head (14) and old_used_idx (18) are those of before, and the entries of 32 bytes
        // from 32 are all still marked.
        device[half: 14] = oldFreeHead
        device[half: 18] = 0
        for entry in 0..<3 { device[byte: 32 + 32 * entry] = 1 }
        try device.crash()
        #expect(try device.takeAll() == [2])
        device.push(0)
        _ = device.queue.publish()
        #expect(try device.collect() == [1, 3, 2])
    }

    @Test("starts afresh on a ring that was set up anew")
    func staleRegion() throws {
        let device = try MortalDevice(.split)
        #expect(device.send(1))
        #expect(try device.takeAll() == [1])
        device[half: 14] = 500
        try device.crash()
        #expect(device[half: 14] == 0)
        #expect(try device.takeAll() == [1])
    }

    @Test("refuses a region that is too small or damaged", arguments: RingKind.plain)
    func damaged(kind: RingKind) throws {
        let device = try MortalDevice(kind)
        #expect(device.send(1))
        #expect(try device.takeAll() == [1])
        // A packed entry's num; a split region's desc_num cannot be wrong without being unused.
        device[half: kind.isPacked ? 32 + 6 : 10] = 9
        if kind.isPacked {
            #expect(throws: QueueError.self) { try device.crash() }
        } else {
            try device.crash()
            #expect(device[half: 10] == 8)
        }
        #expect(InflightRegion(device.regionBytes, offset: 8, entries: 512, isPacked: false) == nil)
        #expect(InflightRegion(device.regionBytes, offset: 4, entries: 1, isPacked: false) == nil)
    }

    @Test(
        "yields again what it is told to have never taken, also once it has died",
        arguments: RingKind.allCases)
    func rewinds(kind: RingKind) throws {
        let device = try MortalDevice(kind)
        let styles: [DescriptorStyle] = [.direct, .indirect, .direct]
        for token in 1...3 { #expect(device.send(UInt8(token), style: styles[token - 1])) }
        #expect(try device.takeAll() == [1, 2, 3])
        device.push(0)
        _ = device.queue.publish()
        // It dies in the midst of a batch, which leaves used entries behind.
        device.push(0)
        device.push(0)
        try device.crash()
        #expect(try device.take() == 2)
        device.queue.rewind()
        let state = device.queue.state
        #expect(state.nextAvailable == state.nextUsed)
        device.taken = []
        try device.crash()
        #expect(device.queue.state == state)
        #expect(try device.takeAll() == [2, 3])
        device.queue.rewind()
        device.taken = []
        #expect(device.send(4, buffers: 1))
        #expect(try device.takeAll() == [2, 3, 4])
        for _ in 0..<3 { device.push(0) }
        _ = device.queue.publish()
        #expect(try device.collect() == [1, 2, 3, 4])
        #expect(device.driver.freeCount == 8)
    }

    @Test(
        "loses nothing and completes nothing twice, whenever it dies",
        arguments: RingKind.allCases, [1, 2, 3] as [UInt64])
    func model(kind: RingKind, seed: UInt64) throws {
        var random = SeededGenerator(seed)
        let device = try MortalDevice(kind)
        var open: Set<UInt64> = []
        var next: UInt64 = 0
        var crashes = 0
        for _ in 0..<1500 {
            switch Int.random(in: 0..<10, using: &random) {
            case 0...2:
                // A token is used again only once it has come back.
                let buffers = Int.random(in: 1...3, using: &random)
                if !open.contains(next), device.send(UInt8(next), buffers: buffers) {
                    open.insert(next)
                    next = (next + 1) % 100
                }
            case 3...5: _ = try device.take()
            case 6, 7:
                if let position = device.taken.indices.randomElement(using: &random) {
                    device.push(position)
                }
            case 8: _ = device.queue.publish()
            default:
                if Int.random(in: 0..<4, using: &random) == 0 {
                    try device.crash()
                    crashes += 1
                }
            }
            for token in try device.collect() { #expect(open.remove(token) != nil) }
        }
        _ = try device.takeAll()
        while !device.taken.isEmpty { device.push(0) }
        _ = device.queue.publish()
        for token in try device.collect() { #expect(open.remove(token) != nil) }
        #expect(open.isEmpty)
        #expect(crashes > 10)
        #expect(device.driver.freeCount == 8)
    }
}
