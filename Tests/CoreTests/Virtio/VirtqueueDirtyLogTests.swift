import Core
import TestSupport
import Testing

@Suite("What a virtqueue writes is recorded")
struct VirtqueueDirtyLogTests {
    /// A ring in the first 64 KiB, two buffers of several pages, and a log for all of it.
    private struct Rig {
        let pair: RingPair
        let queue: Virtqueue
        let log: DirtyLog
        let event: EventFD
        let first = DriverBuffer(GuestAddress(0x2_0800), 0x1000)
        let second = DriverBuffer(GuestAddress(0x3_0000), 0x3000)
        let chain = DescriptorChain()

        init(_ kind: RingKind, usedAddress: UInt64? = nil) throws {
            pair = try RingPair(
                kind, scratch: ScratchMemory([(start: 0, size: 0x4_0000)]))
            log = DirtyLog(try MemoryMapping(anonymous: 4096))
            event = try EventFD()
            var setup = pair.queue.setup
            setup.dirtyLog = log
            setup.dirtyLogEvent = event
            setup.usedLogAddress = usedAddress.map { GuestAddress($0) }
            queue = try Virtqueue(setup)
        }

        var marked: [UInt64] { (0..<0x40).filter { log.isMarked(page: $0) } }

        func serve(written: UInt32) throws {
            _ = pair.send(readable: [first], writable: [first, second])
            #expect(try queue.pop(into: chain))
            chain.trimWritable(first: 0x1000)
            queue.push(chain, written: written)
            _ = queue.publish()
        }
    }

    @Test(
        "up to the length that was written",
        arguments: [
            (0, []), (1, [0x20]), (0x800, [0x20]), (0x801, [0x20, 0x21]),
            (0x1000, [0x20, 0x21]), (0x1001, [0x20, 0x21, 0x30]),
            (0x4000, [0x20, 0x21, 0x30, 0x31, 0x32]),
            (UInt32.max, [0x20, 0x21, 0x30, 0x31, 0x32]),
        ] as [(UInt32, [UInt64])])
    func buffers(written: UInt32, pages: [UInt64]) throws {
        for kind in RingKind.allCases {
            let rig = try Rig(kind)
            try rig.serve(written: written)
            #expect(rig.marked == pages)
        }
    }

    @Test("with the used ring, if that has a log address", arguments: RingKind.allCases)
    func usedRing(kind: RingKind) throws {
        let rig = try Rig(kind, usedAddress: 0x1_0ffc)
        try rig.serve(written: 0)
        // Split: the index is at byte 2, the first entry at byte 4. Packed: at bytes 8 to 16.
        #expect(rig.marked == (kind.isPacked ? [0x11] : [0x10, 0x11]))
    }

    @Test("with what tells the driver when to kick", arguments: RingKind.allCases)
    func notifications(kind: RingKind) throws {
        let rig = try Rig(kind, usedAddress: 0x1_0000)
        _ = rig.queue.enableNotifications()
        #expect(rig.marked == (kind.isPacked ? [0] : [0x10]))
    }

    @Test("and is announced to whoever waits for it", arguments: RingKind.plain)
    func event(kind: RingKind) throws {
        let rig = try Rig(kind)
        #expect(!rig.event.drain())
        try rig.serve(written: 1)
        #expect(rig.event.drain())
        _ = rig.queue.enableNotifications()
        #expect(rig.event.drain())
    }
}
