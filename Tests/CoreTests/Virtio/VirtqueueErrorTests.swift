import Core
import TestSupport
import Testing

@Suite("A virtqueue whose driver is wrong breaks")
struct VirtqueueErrorTests {
    private let somewhere: UInt64 = 0x18_0000

    // MARK: Split

    @Test("when the index jumps")
    func jump() throws {
        let ring = try RawRing(.split)
        try ring.put(0, somewhere, 16, 0)
        try ring.offer([0], index: 9)
        ring.expect(.availableIndexJumped(to: 9, expected: 0))
    }

    @Test("when the index goes back")
    func back() throws {
        let ring = try RawRing(.split)
        try ring.offer([], index: 0xffff)
        ring.expect(.availableIndexJumped(to: 0xffff, expected: 0))
    }

    @Test("when a head is out of range", arguments: [8, 9, 0xffff] as [UInt16])
    func head(index: UInt16) throws {
        let ring = try RawRing(.split)
        try ring.offer([index])
        ring.expect(.headOutOfRange(index, size: 8))
    }

    @Test("when a next is out of range", arguments: [8, 0xffff] as [UInt16])
    func next(index: UInt16) throws {
        let ring = try RawRing(.split)
        try ring.put(0, somewhere, 16, RawRing.next, next: index)
        try ring.offer([0])
        ring.expect(.nextOutOfRange(index, count: 8))
    }

    @Test("when a chain is a loop", arguments: [0, 1] as [UInt16])
    func loop(target: UInt16) throws {
        let ring = try RawRing(.split)
        try ring.put(0, somewhere, 16, RawRing.next, next: 1)
        try ring.put(1, somewhere, 16, RawRing.next, next: target)
        try ring.offer([0])
        ring.expect(.loop(head: 0))
    }

    @Test("when a table's next is out of range")
    func tableNext() throws {
        let ring = try RawRing(.split)
        let table = GuestAddress(somewhere)
        try ring.put(0, somewhere, 32, RawRing.indirect)
        try ring.put(0, somewhere, 16, RawRing.next, next: 2, table: table)
        try ring.offer([0])
        ring.expect(.nextOutOfRange(2, count: 2))
    }

    @Test("when a table is a loop")
    func tableLoop() throws {
        let ring = try RawRing(.split)
        let table = GuestAddress(somewhere)
        try ring.put(3, somewhere, 32, RawRing.indirect)
        try ring.put(0, somewhere, 16, RawRing.next, next: 1, table: table)
        try ring.put(1, somewhere, 16, RawRing.next, next: 0, table: table)
        try ring.offer([3])
        ring.expect(.loop(head: 3))
    }

    @Test("when a table goes on for ever")
    func tableTooLong() throws {
        let ring = try RawRing(.split)
        let table = GuestAddress(somewhere)
        try ring.put(0, somewhere, 16 * 2000, RawRing.indirect)
        for index in 0..<2000 {
            try ring.put(
                index, somewhere, 1, RawRing.next, next: UInt16(index + 1), table: table)
        }
        try ring.offer([0])
        ring.expect(.chainTooLong(head: 0, limit: 1024))
    }

    @Test("when the same descriptors are offered over and over")
    func outstanding() throws {
        let ring = try RawRing(.split, size: 2)
        try ring.put(0, somewhere, 16, 0)
        try ring.offer([0, 0])
        #expect(try ring.queue.pop(into: DescriptorChain()))
        #expect(try ring.queue.pop(into: DescriptorChain()))
        try ring.offer([0, 0], index: 3)
        ring.expect(.tooManyOutstanding(size: 2))
    }

    // MARK: Packed

    @Test("when a list takes up more than the ring")
    func packedLoop() throws {
        let ring = try RawRing(.packed, size: 3)
        for index in 0..<3 { try ring.put(index, somewhere, 16, RawRing.next, id: 5) }
        ring.expect(.loop(head: 5))
    }

    @Test("when descriptors come back before they were used")
    func packedOutstanding() throws {
        let ring = try RawRing(.packed, size: 2)
        try ring.put(0, somewhere, 16, 0)
        try ring.put(1, somewhere, 16, 0)
        #expect(try ring.queue.pop(into: DescriptorChain()))
        #expect(try ring.queue.pop(into: DescriptorChain()))
        // Available in the second lap: AVAIL clear, USED set.
        let flags = ring.layout.descriptors.advanced(by: 14)
        try ring.scratch.memory.write(#require(flags), 0x8000 as UInt16)
        ring.expect(.tooManyOutstanding(size: 2))
    }

    @Test("when an indirect descriptor follows another")
    func packedIndirectSecond() throws {
        let ring = try RawRing(.packed)
        try ring.put(0, somewhere, 16, RawRing.next, id: 3)
        try ring.put(1, somewhere, 16, RawRing.indirect, id: 3)
        ring.expect(.indirectInChain(head: 3))
    }

    @Test("when a table has more descriptors than any request")
    func packedTableTooLong() throws {
        let ring = try RawRing(.packed)
        try ring.put(0, somewhere, 16 * 1025, RawRing.indirect, id: 1)
        ring.expect(.chainTooLong(head: 1, limit: 1024))
    }

    // MARK: Both

    @Test("when a buffer is not in memory", arguments: RingKind.plain)
    func outside(kind: RingKind) throws {
        let cases: [(UInt64, UInt32)] = [
            (0, 1), (0xf_ffff, 1), (0xf_ffff, 2), (0x20_0000, 1), (0x1f_ffff, 2),
            (0x10_0000, 0x10_0001), (0x18_0000, UInt32.max), (UInt64.max, 1), (UInt64.max, 2),
            (UInt64.max - 15, 0x20_0000), (1 << 63, 1),
        ]
        for (address, length) in cases {
            for flags in [0, RawRing.write] {
                let ring = try RawRing(kind)
                try ring.put(0, address, length, flags)
                try ring.offer([0])
                ring.expect(.bufferOutsideMemory(GuestAddress(address), count: length))
            }
        }
    }

    @Test("but a device may want to answer itself", arguments: RingKind.plain)
    func leftOut(kind: RingKind) throws {
        let ring = try RawRing(kind, leavesOutUnreachable: true)
        try ring.put(0, 0x18_0000, 16, RawRing.next, next: 1)
        try ring.put(1, 0x20_0000, 0x1000, RawRing.next, next: 2)
        try ring.put(2, 0x18_1000, 4, RawRing.write)
        try ring.offer([0])
        let chain = DescriptorChain()
        #expect(try ring.queue.pop(into: chain))
        #expect(!chain.isWhole)
        #expect(chain.readableLength == 16)
        #expect(chain.writableLength == 4)
        #expect(!ring.queue.isBroken)
    }

    @Test("when a buffer goes on beyond the end of addresses", arguments: RingKind.plain)
    func wrapsToZero(kind: RingKind) throws {
        let top = 0 &- 0x1000 as UInt64
        let ring = try RawRing(
            kind, windows: [(start: 0, size: 0x10000), (start: top, size: 0x1000)])
        try ring.put(0, top, 0x1001, 0)
        try ring.offer([0])
        ring.expect(.bufferOutsideMemory(GuestAddress(top), count: 0x1001))
    }

    @Test("when a buffer crosses a gap between regions", arguments: RingKind.plain)
    func gap(kind: RingKind) throws {
        let ring = try RawRing(
            kind, windows: [(start: 0, size: 0x10000), (start: 0x11000, size: 0x1000)])
        try ring.put(0, 0xfff0, 0x1020, 0)
        try ring.offer([0])
        ring.expect(.bufferOutsideMemory(GuestAddress(0xfff0), count: 0x1020))
    }

    @Test("when a readable buffer follows a writable one", arguments: RingKind.plain)
    func order(kind: RingKind) throws {
        let ring = try RawRing(kind)
        try ring.put(0, somewhere, 16, RawRing.next | RawRing.write, next: 1)
        try ring.put(1, somewhere, 16, 0)
        try ring.offer([0])
        ring.expect(.readableAfterWritable(head: 0))
    }

    @Test("when a chain is too large", arguments: RingKind.plain)
    func tooLarge(kind: RingKind) throws {
        // Two buffers of 2^31 bytes are the most; the file is sparse.
        let size: UInt64 = 1 << 31
        let ring = try RawRing(kind, windows: [(start: 0, size: size)])
        try ring.put(0, 0, UInt32(size), RawRing.next, next: 1)
        try ring.put(1, 0, UInt32(size), RawRing.next, next: 2)
        try ring.put(2, 0, 1, 0)
        try ring.offer([0])
        ring.expect(.chainTooLarge(head: 0, byteCount: 1 << 32 + 1))
    }

    @Test("when an indirect descriptor was not negotiated", arguments: RingKind.plain)
    func notNegotiated(kind: RingKind) throws {
        let ring = try RawRing(kind, features: 0)
        try ring.put(0, somewhere, 16, RawRing.indirect)
        try ring.offer([0])
        ring.expect(.indirectNotNegotiated(head: 0))
    }

    @Test("when an indirect descriptor goes on", arguments: RingKind.plain)
    func indirectNext(kind: RingKind) throws {
        let ring = try RawRing(kind)
        try ring.put(0, somewhere, 16, RawRing.indirect | RawRing.next, next: 1)
        try ring.offer([0])
        ring.expect(.indirectInChain(head: 0))
    }

    @Test("when a table is in a table", arguments: RingKind.plain)
    func nested(kind: RingKind) throws {
        let ring = try RawRing(kind)
        try ring.put(0, somewhere, 16, RawRing.indirect)
        try ring.put(0, somewhere, 16, RawRing.indirect, table: GuestAddress(somewhere))
        try ring.offer([0])
        ring.expect(.indirectNested(head: 0))
    }

    @Test("when a table's length is wrong", arguments: RingKind.plain, [0, 1, 15, 17, 0xffff_fff1])
    func tableLength(kind: RingKind, length: UInt32) throws {
        let ring = try RawRing(kind)
        try ring.put(0, somewhere, length, RawRing.indirect)
        try ring.offer([0])
        ring.expect(.indirectLength(length))
    }

    @Test(
        "when a table is not in memory", arguments: RingKind.plain,
        [0, 0x1f_fff0, 0x1f_fff1, UInt64.max, UInt64.max - 15])
    func tableOutside(kind: RingKind, address: UInt64) throws {
        let ring = try RawRing(kind)
        try ring.put(0, address, 32, RawRing.indirect)
        try ring.offer([0])
        ring.expect(.indirectOutsideMemory(GuestAddress(address), count: 32))
    }

    @Test("but still takes back what was popped before", arguments: RingKind.plain)
    func pushAfterBreak(kind: RingKind) throws {
        let pair = try RingPair(kind)
        let buffer = pair.scratch.buffer(16)
        let chain = DescriptorChain()
        _ = pair.send(readable: [buffer], writable: [], token: 5)
        #expect(try pair.queue.pop(into: chain))
        _ = pair.send(readable: [DriverBuffer(GuestAddress(0), 1)], writable: [])
        #expect(throws: QueueError.self) { try pair.queue.pop(into: DescriptorChain()) }
        pair.queue.push(chain, written: 0)
        _ = pair.queue.publish()
        #expect(try pair.driver.popUsed() == UsedRequest(token: 5, written: 0))
    }
}

@Suite("A virtqueue is not set up")
struct VirtqueueSetupTests {
    private func attempt(
        _ kind: RingKind, _ change: (inout QueueSetup) -> Void
    ) throws(QueueError) {
        do {
            let pair = try RingPair(kind)
            var setup = pair.queue.setup
            change(&setup)
            _ = try Virtqueue(setup)
        } catch let error as QueueError {
            throw error
        } catch {
            Issue.record(error)
        }
    }

    @Test(
        "with a size that its kind does not have",
        arguments: [
            (.split, 0), (.split, 3), (.split, 32769), (.split, 0xffff), (.packed, 0),
            (.packed, 32769),
        ] as [(RingKind, UInt16)])
    func size(kind: RingKind, size: UInt16) {
        #expect(throws: QueueError.invalidSize(size)) {
            try attempt(kind) { $0.layout.size = size }
        }
    }

    @Test(
        "when a part is misaligned",
        arguments: [
            (.split, .descriptors, 8), (.split, .driver, 1), (.split, .device, 2),
            (.packed, .descriptors, 8), (.packed, .driver, 2), (.packed, .device, 2),
        ] as [(RingKind, QueuePart, UInt64)])
    func alignment(kind: RingKind, part: QueuePart, offset: UInt64) {
        let address = GuestAddress(0x10_0000 + offset)
        #expect(throws: QueueError.misaligned(part, address)) {
            try attempt(kind) { Self.move(&$0, part, address) }
        }
    }

    @Test(
        "when a part is not all in memory", arguments: RingKind.plain,
        [QueuePart.descriptors, .driver, .device])
    func place(kind: RingKind, part: QueuePart) {
        for address in [0, 0x20_0000, 0 &- 16, 0 &- 4096] as [UInt64] {
            #expect(throws: QueueError.self) {
                try attempt(kind) { Self.move(&$0, part, GuestAddress(address)) }
            }
        }
        // The first byte is in memory, the last is not.
        let count: UInt64 =
            switch (kind, part) {
            case (_, .descriptors): 128
            case (.split, .driver): 4 + 16
            case (.split, _): 4 + 64
            default: 4
            }
        let alignment: UInt64 = part == .descriptors ? 16 : 4
        let last = (0x20_0000 - count) / alignment * alignment
        #expect(throws: Never.self) {
            try attempt(kind) { Self.move(&$0, part, GuestAddress(last)) }
        }
        let beyond = GuestAddress(last + alignment)
        #expect(throws: QueueError.partOutsideMemory(part, beyond, count: count)) {
            try attempt(kind) { Self.move(&$0, part, beyond) }
        }
    }

    @Test(
        "from a state that it cannot have had",
        arguments: [
            (.split, 9, 0), (.split, 0, 1), (.split, 8, 0xffff), (.packed, 0x8008, 0x8000),
            (.packed, 0x8000, 0x8008), (.packed, 0x8000, 0x8001), (.packed, 0x8003, 0x0002),
        ] as [(RingKind, UInt16, UInt16)])
    func state(kind: RingKind, available: UInt16, used: UInt16) {
        let state = QueueState(nextAvailable: available, nextUsed: used)
        #expect(throws: QueueError.invalidState(state)) {
            try attempt(kind) { $0.state = state }
        }
    }

    @Test(
        "but from any that it can",
        arguments: [
            (.split, 8, 0), (.split, 3, 0xfffb), (.packed, 0x8007, 0x8000),
            (.packed, 0x0000, 0x8000),
            (.packed, 0x0002, 0x8003), (.packed, 0x8007, 0x8007), (.packed, 0x8002, 0x0003),
        ] as [(RingKind, UInt16, UInt16)])
    func goodState(kind: RingKind, available: UInt16, used: UInt16) {
        let state = QueueState(nextAvailable: available, nextUsed: used)
        #expect(throws: Never.self) { try attempt(kind) { $0.state = state } }
    }

    private static func move(_ setup: inout QueueSetup, _ part: QueuePart, _ to: GuestAddress) {
        switch part {
        case .descriptors: setup.layout.descriptors = to
        case .driver: setup.layout.driver = to
        case .device: setup.layout.device = to
        }
    }
}
