import Core
import TestSupport
import Testing

@Suite("A virtqueue")
struct VirtqueueTests {
    @Test(
        "carries a request there and back", arguments: RingKind.allCases, DescriptorStyle.allCases)
    func roundTrip(kind: RingKind, style: DescriptorStyle) throws {
        let pair = try RingPair(kind)
        let header = pair.scratch.place([1, 2, 3, 4])
        let body = pair.scratch.place([5, 6])
        let answer = pair.scratch.buffer(8)
        let status = pair.scratch.buffer(1)
        #expect(
            pair.send(
                readable: [header, body], writable: [answer, status], style: style, token: 42))

        let chain = DescriptorChain()
        #expect(try pair.queue.pop(into: chain))
        #expect(chain.readableLength == 6)
        #expect(chain.writableLength == 9)
        #expect(chain.readBytes(at: 0, count: 100) == [1, 2, 3, 4, 5, 6])
        #expect(chain.write(at: 0, [9, 8, 7, 6, 5, 4, 3, 2, 1]) == 9)
        #expect(try !pair.queue.pop(into: DescriptorChain()))
        pair.queue.push(chain, written: 9)
        #expect(try pair.driver.popUsed() == nil)
        #expect(pair.queue.publish())

        #expect(try pair.driver.popUsed() == UsedRequest(token: 42, written: 9))
        #expect(try pair.driver.popUsed() == nil)
        #expect(pair.scratch.bytes(answer) == [9, 8, 7, 6, 5, 4, 3, 2])
        #expect(pair.scratch.bytes(status) == [1])
        #expect(pair.driver.freeCount == 8)
        #expect(pair.queue.state == pair.driver.state)
    }

    @Test("is empty at first", arguments: RingKind.allCases)
    func empty(kind: RingKind) throws {
        let pair = try RingPair(kind)
        #expect(try !pair.queue.pop(into: DescriptorChain()))
        #expect(!pair.queue.publish())
        #expect(!pair.queue.enableNotifications())
        #expect(!pair.queue.isBroken)
    }

    @Test("does not see what the driver has not published", arguments: RingKind.allCases)
    func unpublished(kind: RingKind) throws {
        let pair = try RingPair(kind)
        let buffer = pair.scratch.buffer(16)
        pair.driver.add(readable: [buffer], writable: [])
        pair.driver.add(readable: [buffer], writable: [])
        #expect(try !pair.queue.pop(into: DescriptorChain()))
        _ = pair.driver.publish()
        #expect(try pair.queue.pop(into: DescriptorChain()))
        #expect(try pair.queue.pop(into: DescriptorChain()))
        #expect(try !pair.queue.pop(into: DescriptorChain()))
    }

    @Test("takes chains back in any order", arguments: RingKind.allCases)
    func outOfOrder(kind: RingKind) throws {
        let pair = try RingPair(kind)
        let buffer = pair.scratch.buffer(16)
        let chains = (0..<4).map { _ in DescriptorChain() }
        for token in 0..<4 as Range<UInt64> {
            // Chains of different lengths, so that packed rings skip different numbers.
            let count = token % 2 + 1
            pair.driver.add(
                readable: [], writable: Array(repeating: buffer, count: Int(count)), token: token)
        }
        _ = pair.driver.publish()
        for chain in chains { #expect(try pair.queue.pop(into: chain)) }
        for index in [2, 0, 3, 1] { pair.queue.push(chains[index], written: UInt32(index)) }
        _ = pair.queue.publish()
        for token in [2, 0, 3, 1] as [UInt64] {
            #expect(
                try pair.driver.popUsed() == UsedRequest(token: token, written: UInt32(token)))
        }
        #expect(pair.driver.freeCount == 8)
    }

    @Test("shows a batch at once", arguments: RingKind.allCases)
    func batch(kind: RingKind) throws {
        let pair = try RingPair(kind)
        let buffer = pair.scratch.buffer(16)
        let chains = (0..<8).map { _ in DescriptorChain() }
        for token in 0..<8 as Range<UInt64> {
            pair.driver.add(readable: [buffer], writable: [], token: token)
        }
        _ = pair.driver.publish()
        for chain in chains { #expect(try pair.queue.pop(into: chain)) }
        for chain in chains {
            pair.queue.push(chain, written: 0)
            #expect(try pair.driver.popUsed() == nil)
        }
        _ = pair.queue.publish()
        for token in 0..<8 as Range<UInt64> {
            #expect(try pair.driver.popUsed() == UsedRequest(token: token, written: 0))
        }
    }

    @Test(
        "works at every size",
        arguments: [
            (RingKind.split, 1), (.split, 2), (.splitEventIndex, 256), (.split, 32768),
            (.packed, 1), (.packed, 3), (.packedEventIndex, 7), (.packed, 1000),
            (.packedEventIndex, 32767), (.packed, 32768),
        ] as [(RingKind, UInt16)])
    func sizes(kind: RingKind, size: UInt16) throws {
        let pair = try RingPair(
            kind, size: size, tableSize: 0, scratch: ScratchMemory(size: 4 << 20))
        let buffer = pair.scratch.buffer(16)
        let chain = DescriptorChain()
        // Fills the ring twice, so that everything wraps.
        for round in 0..<2 as Range<UInt64> {
            for token in 0..<UInt64(size) {
                #expect(pair.driver.add(readable: [buffer], writable: [], token: token + round))
            }
            #expect(!pair.driver.add(readable: [buffer], writable: []))
            _ = pair.driver.publish()
            while try pair.queue.pop(into: chain) { pair.queue.push(chain, written: 1) }
            _ = pair.queue.publish()
            for token in 0..<UInt64(size) {
                #expect(
                    try pair.driver.popUsed() == UsedRequest(token: token + round, written: 1))
            }
        }
        #expect(pair.queue.size == size)
    }

    @Test("goes on where another one stopped", arguments: RingKind.allCases)
    func restart(kind: RingKind) throws {
        let pair = try RingPair(kind, size: 4)
        let buffer = pair.scratch.buffer(16)
        let chain = DescriptorChain()
        var queue = pair.queue
        for token in 0..<21 as Range<UInt64> {
            _ = pair.send(readable: [buffer], writable: [buffer], token: token)
            #expect(try queue.pop(into: chain))
            queue.push(chain, written: 3)
            // Whoever starts does not know what the driver was told.
            #expect(queue.publish())
            #expect(try pair.driver.popUsed() == UsedRequest(token: token, written: 3))
            var setup = queue.setup
            setup.state = queue.state
            queue = try Virtqueue(setup)
        }
    }

    @Test("starts in the middle", arguments: RingKind.allCases)
    func startState(kind: RingKind) throws {
        // The last entry before both kinds wrap: of the index, and of the ring.
        let raw: UInt16 = kind.isPacked ? 7 : 0xffff
        let pair = try RingPair(kind, state: QueueState(nextAvailable: raw, nextUsed: raw))
        let buffer = pair.scratch.buffer(16)
        let chain = DescriptorChain()
        for token in 0..<20 as Range<UInt64> {
            _ = pair.send(readable: [buffer], writable: [buffer], token: token)
            #expect(try pair.queue.pop(into: chain))
            pair.queue.push(chain, written: 3)
            _ = pair.queue.publish()
            #expect(try pair.driver.popUsed() == UsedRequest(token: token, written: 3))
        }
    }

    @Test("splits buffers at the border of regions", arguments: RingKind.allCases)
    func spanning(kind: RingKind) throws {
        let scratch = try ScratchMemory([
            (start: 0, size: 0x10000), (start: 0x10000, size: 0x1000),
            (start: 0x11000, size: 0x1000),
        ])
        let pair = try RingPair(kind, scratch: scratch)
        let across = DriverBuffer(GuestAddress(0xfff0), 0x1020)
        _ = pair.send(readable: [across], writable: [across])
        let chain = DescriptorChain(capacity: 1)
        #expect(try pair.queue.pop(into: chain))
        #expect(chain.readableLengths == [0x10, 0x1000, 0x10])
        #expect(chain.writableLengths == [0x10, 0x1000, 0x10])
        let bytes = (0..<0x1020).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        #expect(chain.write(at: 0, bytes) == 0x1020)
        #expect(try scratch.memory.readBytes(across.address, count: 0x1020) == bytes)
        #expect(chain.readBytes(at: 0, count: 0x1020) == bytes)
    }

    @Test("finds every buffer in many regions", arguments: RingKind.plain)
    func manyRegions(kind: RingKind) throws {
        // Runs of adjoining pages with gaps between them; the ring is in the first.
        let windows = (0..<60).map { index in
            (start: UInt64(index + index / 7) * 0x1000, size: 0x1000 as UInt64)
        }
        let scratch = try ScratchMemory(windows)
        for window in windows {
            let pattern = (0..<0x1000).map {
                UInt8(truncatingIfNeeded: $0 / 16 ^ Int(window.start >> 12))
            }
            try scratch.memory.write(GuestAddress(window.start), pattern)
        }
        let pair = try RingPair(kind, tableSize: 0, scratch: scratch)
        let chain = DescriptorChain()
        var random = SeededGenerator(1)
        for _ in 0..<500 {
            let start = UInt64.random(in: 0x1000..<0x44000, using: &random)
            let buffer = DriverBuffer(
                GuestAddress(start), UInt32.random(in: 1...0x3000, using: &random))
            let expected = try? scratch.memory.readBytes(buffer.address, count: Int(buffer.length))
            guard let expected else { continue }
            _ = pair.send(readable: [buffer], writable: [])
            #expect(try pair.queue.pop(into: chain))
            #expect(chain.readBytes(at: 0, count: 0x4000) == expected)
            pair.queue.push(chain, written: 0)
            _ = pair.queue.publish()
            _ = try pair.driver.popUsed()
        }
    }

    @Test("finds an indirect table across regions", arguments: RingKind.allCases)
    func spanningTable(kind: RingKind) throws {
        let scratch = try ScratchMemory([
            (start: 0, size: 0x10000), (start: 0x10000, size: 0x1000),
        ])
        let pair = try RingPair(kind, scratch: scratch)
        _ = pair.send(
            readable: [scratch.place([1, 2])], writable: [scratch.buffer(4), scratch.buffer(5)],
            style: .indirect)
        // Moves the table to where it straddles the border, misaligned.
        let layout = pair.driver.layout
        let table = try scratch.memory.read(layout.descriptors, as: UInt64.self)
        let bytes = try scratch.memory.readBytes(GuestAddress(table), count: 48)
        try scratch.memory.write(GuestAddress(0xffeb), bytes)
        try scratch.memory.write(layout.descriptors, 0xffeb as UInt64)
        let chain = DescriptorChain()
        #expect(try pair.queue.pop(into: chain))
        #expect(chain.readBytes(at: 0, count: 9) == [1, 2])
        #expect(chain.writableLength == 9)
    }

    @Test("ignores the write flag of an indirect descriptor", arguments: RingKind.plain)
    func indirectWriteFlag(kind: RingKind) throws {
        let pair = try RingPair(kind)
        _ = pair.send(
            readable: [pair.scratch.place([1, 2])], writable: [], style: .indirect)
        let flags = pair.driver.layout.descriptors.rawValue + (kind.isPacked ? 14 : 12)
        let old = try pair.scratch.memory.read(GuestAddress(flags), as: UInt16.self)
        try pair.scratch.memory.write(GuestAddress(flags), old | 2)
        let chain = DescriptorChain()
        #expect(try pair.queue.pop(into: chain))
        #expect(chain.readBytes(at: 0, count: 9) == [1, 2])
    }

    @Test("skips empty buffers", arguments: RingKind.allCases)
    func emptyBuffers(kind: RingKind) throws {
        let pair = try RingPair(kind)
        // An empty buffer's address means nothing.
        let nothing = DriverBuffer(GuestAddress(0xdead_0000_0000), 0)
        _ = pair.send(
            readable: [nothing, pair.scratch.place([7])],
            writable: [pair.scratch.buffer(3), nothing]
        )
        let chain = DescriptorChain()
        #expect(try pair.queue.pop(into: chain))
        #expect(chain.readableLengths == [1])
        #expect(chain.writableLengths == [3])
        #expect(chain.readBytes(at: 0, count: 10) == [7])
    }

    @Test("takes an indirect table longer than the ring", arguments: RingKind.allCases)
    func longTable(kind: RingKind) throws {
        let pair = try RingPair(kind, size: 2, tableSize: 1024)
        let buffer = pair.scratch.buffer(16)
        _ = pair.send(
            readable: Array(repeating: buffer, count: 1000),
            writable: Array(repeating: buffer, count: 24), style: .indirect)
        let chain = DescriptorChain()
        #expect(try pair.queue.pop(into: chain))
        #expect(chain.readableLengths == Array(repeating: 16, count: 1000))
        #expect(chain.writableLength == 24 * 16)
        #expect(chain.descriptorCount == 1)
    }
}
