import Core
import TestSupport
import Testing

/// Random interleavings of a driver and a device that both keep the rules, checked step by step.
///
/// Each request carries its token as readable bytes, and gets it back, inverted, as written bytes.
private struct VirtqueueModel {
    private struct Request {
        var readable: [DriverBuffer]
        var writable: [DriverBuffer]
        var writtenLength: UInt32 = 0
    }

    private var random: SeededGenerator
    private let pair: RingPair
    private let hasEventIndex: Bool
    private var queue: Virtqueue
    private let slots: [DriverBuffer]

    private var nextToken: UInt64 = 1
    private var requests: [UInt64: Request] = [:]
    private var published: [UInt64] = []
    private var waiting: [UInt64] = []  // in the order the device will see them
    private var taken: [(token: UInt64, chain: DescriptorChain)] = []
    private var pushed: [UInt64] = []
    private var used: [UInt64] = []
    private var spare: [DescriptorChain] = []

    private var deviceSleeps = false
    private var driverSleeps = false
    private(set) var finished = 0

    init(_ kind: RingKind, size: UInt16, seed: UInt64) throws {
        random = SeededGenerator(seed)
        let scratch = try ScratchMemory(size: 1 << 20)
        // Starts just before the indices wrap.
        let state: QueueState? =
            kind.isPacked ? nil : QueueState(nextAvailable: 0xff00, nextUsed: 0xff00)
        pair = try RingPair(kind, size: size, tableSize: 6, scratch: scratch, state: state)
        queue = pair.queue
        hasEventIndex = kind.features & VirtioFeature.eventIndex != 0
        slots = (0..<64).map { _ in scratch.buffer(64) }
    }

    mutating func step() throws {
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<25: try add()
        case 25..<40: publishAvailable()
        case 40..<60: try take()
        case 60..<75: push()
        case 75..<85: publishUsed()
        case 85..<96: try collect()
        case 96: deviceLooks()
        case 97: driverLooks()
        case 98: queue.disableNotifications(); deviceSleeps = false
        default: try restart()
        }
    }

    private mutating func add() throws {
        let token = nextToken
        var request = Request(readable: [], writable: [])
        for _ in 0..<Int.random(in: 1...3, using: &random) {
            request.readable.append(piece())
        }
        for _ in 0..<Int.random(in: 0...3, using: &random) {
            request.writable.append(piece())
        }
        // The first buffer holds the token, in memory of its own.
        let place = slots[Int(token % 64)]
        guard requests[token &- 64] == nil else { return }
        try pair.scratch.memory.write(place.address, token)
        request.readable[0] = DriverBuffer(place.address, 8)
        let style = DescriptorStyle.allCases.randomElement(using: &random) ?? .direct
        if pair.driver.add(
            readable: request.readable, writable: request.writable, style: style, token: token)
        {
            requests[token] = request
            waiting.append(token)
            nextToken += 1
        }
    }

    private mutating func piece() -> DriverBuffer {
        // Lengths only; nobody looks at what is in them.
        DriverBuffer(GuestAddress((1 << 20) + 0x8_0000), UInt32.random(in: 1...512, using: &random))
    }

    private mutating func publishAvailable() {
        let wantsKick = pair.driver.publish()
        if deviceSleeps, !waiting.isEmpty {
            #expect(wantsKick, "the device sleeps and is not woken")
            deviceSleeps = false
        }
        published += waiting
        waiting = []
    }

    private mutating func take() throws {
        let chain = spare.popLast() ?? DescriptorChain(capacity: 2)
        let found = try queue.pop(into: chain)
        deviceSleeps = false
        #expect(found == !published.isEmpty)
        guard found else {
            spare.append(chain)
            return
        }
        let token = published.removeFirst()
        let request = try #require(requests[token])
        #expect(chain.read(at: 0, as: UInt64.self) == token)
        #expect(chain.readableLength == request.readable.reduce(0) { $0 + UInt64($1.length) })
        #expect(chain.writableLength == request.writable.reduce(0) { $0 + UInt64($1.length) })
        taken.append((token, chain))
    }

    private mutating func push() {
        guard !taken.isEmpty else { return }
        let (token, chain) = taken.remove(at: Int.random(in: 0..<taken.count, using: &random))
        let length = UInt32(Int.random(in: 0...Int(chain.writableLength), using: &random))
        requests[token]?.writtenLength = length
        queue.push(chain, written: length)
        spare.append(chain)
        pushed.append(token)
    }

    private mutating func publishUsed() {
        let wantsCall = queue.publish()
        #expect(!wantsCall || !pushed.isEmpty)
        if driverSleeps, !pushed.isEmpty {
            #expect(wantsCall, "the driver sleeps and is not woken")
            driverSleeps = false
        }
        used += pushed
        pushed = []
    }

    private mutating func collect() throws {
        let result = try pair.driver.popUsed()
        driverSleeps = false
        let token = used.first
        #expect(result?.token == token)
        guard let token else { return }
        used.removeFirst()
        #expect(result?.written == requests.removeValue(forKey: token)?.writtenLength)
        finished += 1
    }

    private mutating func deviceLooks() {
        let hasMore = queue.enableNotifications()
        #expect(hasMore == !published.isEmpty)
        deviceSleeps = !hasMore
    }

    private mutating func driverLooks() {
        let hasMore = pair.driver.enableCalls()
        #expect(hasMore == !used.isEmpty)
        driverSleeps = !hasMore
    }

    /// Another device takes over once the first has given everything back.
    private mutating func restart() throws {
        guard Int.random(in: 0..<4, using: &random) == 0 else { return }
        while !taken.isEmpty { push() }
        publishUsed()
        var setup = queue.setup
        setup.state = queue.state
        queue = try Virtqueue(setup)
        deviceSleeps = false
    }

    /// Brings everything to an end.
    mutating func drain() throws {
        publishAvailable()
        while !published.isEmpty { try take() }
        while !taken.isEmpty { push() }
        publishUsed()
        while !used.isEmpty { try collect() }
        #expect(pair.driver.freeCount == Int(queue.size))
        #expect(requests.isEmpty)
        #expect(queue.state == pair.driver.state)
    }
}

@Suite("A driver and a device that keep the rules")
struct VirtqueueModelTests {
    @Test("agree on every step", arguments: RingKind.allCases, [1, 4, 64] as [UInt16])
    func powersOfTwo(kind: RingKind, size: UInt16) throws {
        try run(kind, size, steps: 20_000)
    }

    @Test(
        "agree with packed rings of any size", arguments: [RingKind.packed, .packedEventIndex],
        [3, 7, 100] as [UInt16])
    func anySize(kind: RingKind, size: UInt16) throws {
        try run(kind, size, steps: 20_000)
    }

    private func run(_ kind: RingKind, _ size: UInt16, steps: Int) throws {
        var model = try VirtqueueModel(kind, size: size, seed: UInt64(size) * 31)
        for _ in 0..<steps { try model.step() }
        try model.drain()
        #expect(model.finished > 256)
    }

    @Test("go on beyond 65536 requests", arguments: RingKind.allCases)
    func manyRequests(kind: RingKind) throws {
        let pair = try RingPair(kind, size: kind.isPacked ? 5 : 8)
        let buffer = pair.scratch.buffer(8)
        let buffers = [buffer, buffer]
        let chain = DescriptorChain()
        var collected: UInt64 = 0
        for token in 0..<70_000 as Range<UInt64> {
            pair.driver.add(buffers.span, readableCount: 1, token: token)
            _ = pair.driver.publish()
            guard try pair.queue.pop(into: chain) else { break }
            pair.queue.push(chain, written: 8)
            _ = pair.queue.publish()
            guard try pair.driver.popUsed() == UsedRequest(token: token, written: 8) else { break }
            collected += 1
        }
        #expect(collected == 70_000)
    }
}
