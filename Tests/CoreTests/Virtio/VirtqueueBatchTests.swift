import Core
import Synchronization
import TestSupport
import Testing

/// Chains that several requests are popped to at once.
// SAFETY: the array and the chains live as long as this object.
@safe private final class Batch {
    private let chains: UnsafeMutablePointer<Unmanaged<DescriptorChain>>
    private let count: Int

    init(_ count: Int) {
        self.count = count
        unsafe chains = .allocate(capacity: count)
        for index in 0..<count {
            unsafe (chains + index).initialize(to: .passRetained(DescriptorChain(capacity: 1)))
        }
    }

    deinit {
        for index in 0..<count { unsafe chains[index].release() }
        unsafe chains.deallocate()
    }

    func pop(from queue: Virtqueue, limit: Int? = nil) throws(QueueError) -> Int {
        try unsafe queue.pop(into: chains, limit: min(limit ?? count, count))
    }

    subscript(_ index: Int) -> DescriptorChain { unsafe chains[index].takeUnretainedValue() }
}

@Suite("Requests that are taken from a virtqueue several at once")
struct VirtqueueBatchTests {
    private let somewhere: UInt64 = 0x18_0000

    @Test("come in the ring's order, and go back like others", arguments: RingKind.allCases)
    func order(kind: RingKind) throws {
        let pair = try RingPair(kind, size: 16)
        let batch = Batch(8)
        var sent: UInt64 = 0
        var got: UInt64 = 0
        var seen: UInt64 = 0
        for round in 0..<100 {
            for _ in 0..<(round % 11) {
                let place = pair.scratch.buffer(8)
                try pair.scratch.memory.write(place.address, sent)
                let isAdded = pair.driver.add(
                    readable: [place], writable: [],
                    style: round % 3 == 0 ? .indirect : .direct, token: sent)
                if isAdded { sent += 1 }
            }
            _ = pair.driver.publish()
            let count = try batch.pop(from: pair.queue, limit: round % 9)
            // What came since the driver's index was read may be left for the next time.
            let most = min(round % 9, Int(sent - got))
            #expect(count <= most && (count > 0 || most == 0))
            for index in 0..<count {
                #expect(batch[index].read(at: 0, as: UInt64.self) == got)
                pair.queue.push(batch[index], written: 0)
                got += 1
            }
            _ = pair.queue.publish()
            while let used = try pair.driver.popUsed() {
                #expect(used.token == seen)
                seen += 1
            }
        }
        #expect(got > 300 && seen == got)
    }

    @Test("are available again after a rewind", arguments: RingKind.allCases)
    func rewind(kind: RingKind) throws {
        let pair = try RingPair(kind)
        for token in 0..<6 as Range<UInt64> {
            #expect(pair.driver.add(readable: [pair.scratch.buffer(8)], writable: [], token: token))
        }
        _ = pair.driver.publish()
        let batch = Batch(8)
        #expect(try batch.pop(from: pair.queue, limit: 5) == 5)
        for index in 0..<2 { pair.queue.push(batch[index], written: 0) }
        _ = pair.queue.publish()
        pair.queue.rewind()
        #expect(try batch.pop(from: pair.queue) == 4)
    }

    @Test("end before one that is wrong, which breaks the queue then", arguments: RingKind.plain)
    func wrong(kind: RingKind) throws {
        let ring = try RawRing(kind)
        for index in 0..<3 { try ring.put(index, somewhere, 16, 0, id: UInt16(index)) }
        // Outside of memory.
        try ring.put(3, 0x20_0000, 16, 0, id: 3)
        try ring.put(4, somewhere, 16, 0, id: 4)
        try ring.offer([0, 1, 2, 3, 4])
        let batch = Batch(8)
        #expect(try batch.pop(from: ring.queue) == 3)
        #expect(!ring.queue.isBroken)
        #expect((0..<3).map { batch[$0].id } == [0, 1, 2])
        let error = QueueError.bufferOutsideMemory(GuestAddress(0x20_0000), count: 16)
        #expect(throws: error) { try batch.pop(from: ring.queue) }
        #expect(ring.queue.error == error)
        #expect(try batch.pop(from: ring.queue) == 0)
        // What was taken goes back all the same.
        for index in 0..<3 { ring.queue.push(batch[index], written: 0) }
        #expect(ring.queue.publish())
    }

    @Test("end before a head that is none")
    func head() throws {
        let ring = try RawRing(.split)
        try ring.put(0, somewhere, 16, 0)
        try ring.offer([0, 8, 0])
        let batch = Batch(8)
        #expect(try batch.pop(from: ring.queue) == 1)
        ring.expect(.headOutOfRange(8, size: 8))
    }

    @Test("are no more than the ring has, however often they are offered")
    func outstanding() throws {
        let ring = try RawRing(.split, size: 4)
        try ring.put(0, somewhere, 16, 0)
        try ring.offer([0, 0, 0, 0])
        let batch = Batch(8)
        #expect(try batch.pop(from: ring.queue, limit: 3) == 3)
        try ring.offer([0, 0, 0, 0], index: 7)
        #expect(try batch.pop(from: ring.queue) == 1)
        #expect(throws: QueueError.tooManyOutstanding(size: 4)) { try batch.pop(from: ring.queue) }
    }

    @Test("do not break a queue whose index jumps before they were seen to jump")
    func jump() throws {
        let ring = try RawRing(.split)
        try ring.put(0, somewhere, 16, 0)
        try ring.offer([0, 0])
        let batch = Batch(8)
        #expect(try batch.pop(from: ring.queue, limit: 1) == 1)
        try ring.offer([0, 0], index: 11)
        // This one was there when the index was read.
        #expect(try batch.pop(from: ring.queue) == 1)
        ring.expect(.availableIndexJumped(to: 11, expected: 2))
    }

    @Test("stay what they were, whatever the driver writes afterwards", arguments: RingKind.plain)
    func change(kind: RingKind) throws {
        let ring = try RawRing(kind)
        for index in 0..<4 { try ring.put(index, somewhere, 16, 0, id: UInt16(index)) }
        try ring.offer([0, 1, 2, 3])
        let batch = Batch(8)
        #expect(try batch.pop(from: ring.queue) == 4)
        for index in 0..<4 { try ring.put(index, 0x20_0000, .max, RawRing.next, next: 9, id: 9) }
        try ring.offer([9, 9, 9, 9])
        for index in 0..<4 {
            #expect(batch[index].id == UInt16(index))
            #expect(batch[index].readableLengths == [16])
            #expect(batch[index].readBytes(at: 0, count: 16).count == 16)
            ring.queue.push(batch[index], written: 0)
        }
        #expect(ring.queue.publish())
        if !ring.isPacked {
            // The heads that were read once, and not what lies there now.
            let used = try (0..<4).map {
                try ring.scratch.memory.read(
                    GuestAddress(ring.layout.device.rawValue + 4 + 8 * UInt64($0)), as: UInt32.self)
            }
            #expect(used == [0, 1, 2, 3])
        }
    }

    private final class Stop: Sendable {
        let flag = Atomic(false)
    }

    @Test("survive heads and descriptors that change meanwhile", arguments: RingKind.plain)
    func concurrentChange(kind: RingKind) throws {
        let ring = try RawRing(kind, size: 4)
        let (memory, layout, isPacked) = (ring.scratch.memory, ring.layout, ring.isPacked)
        let stop = Stop()
        let thread = try Thread(name: "hostile") {
            var random = SeededGenerator(11)
            while !stop.flag.load(ordering: .relaxed) {
                let index = random.next() % 4
                let place = layout.descriptors.rawValue + 16 * index
                let flag: UInt64 = random.next() % 4 == 0 ? 1 << (random.next() % 3) : 0
                let length = 16 + random.next() % 8 / 7
                let word =
                    isPacked
                    ? length | (flag | 0x80) << 48
                    : length | flag << 32 | (random.next() % 5) << 48
                try? memory.write(GuestAddress(place), 0x1f_fff0 as UInt64)
                try? memory.write(GuestAddress(place + 8), word)
                // Heads are right, or just wrong.
                try? memory.write(
                    GuestAddress(layout.driver.rawValue + 4 + 2 * index),
                    UInt16(random.next() % 17 / 4))
                try? memory.write(
                    GuestAddress(layout.driver.rawValue + 2), UInt16(random.next() % 5))
            }
        }
        defer {
            stop.flag.store(true, ordering: .relaxed)
            thread.join()
        }
        var setup = ring.queue.setup
        let batch = Batch(4)
        var popped = 0
        var broken = 0
        // The other thread may not get a processor for a while.
        let deadline = Clock.monotonic() + 10_000_000_000
        while popped < 200 || broken < 200, Clock.monotonic() < deadline {
            setup.state = isPacked ? .freshPacked : .freshSplit
            let queue = try Virtqueue(setup)
            do {
                while case let count = try batch.pop(from: queue), count > 0 {
                    popped += count
                    for index in 0..<count {
                        // Nothing but the one good range can have been let through.
                        #expect(batch[index].readableLengths.allSatisfy { $0 == 16 })
                        #expect(batch[index].writableLengths.allSatisfy { $0 == 16 })
                        #expect(isPacked || batch[index].id < 4)
                    }
                }
            } catch { broken += 1 }
        }
        #expect(popped >= 200)
        #expect(broken >= 200)
    }
}
