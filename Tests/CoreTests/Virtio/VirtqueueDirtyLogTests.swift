import Core
import TestSupport
import Testing

@Suite("What a virtqueue writes is recorded")
struct VirtqueueDirtyLogTests {
    /// A ring in the first 64 KiB, two buffers of several pages, and a log for all of it.
    private struct Rig {
        let pair: RingPair
        let log: DirtyLog
        let first = DriverBuffer(GuestAddress(0x2_0800), 0x1000)
        let second = DriverBuffer(GuestAddress(0x3_0000), 0x3000)
        let chain = DescriptorChain()

        init(_ kind: RingKind) throws {
            pair = try RingPair(
                kind, scratch: ScratchMemory([(start: 0, size: 0x4_0000)]))
            log = DirtyLog(try MemoryMapping(anonymous: 4096))
        }

        var marked: [UInt64] { (0..<0x40).filter { log.isMarked(page: $0) } }

        func serve(written: UInt32) throws {
            _ = pair.send(readable: [first], writable: [first, second])
            #expect(try pair.queue.pop(into: chain))
            chain.trimWritable(first: 0x1000)
            pair.queue.push(chain, written: written)
            _ = pair.queue.publish()
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
            rig.pair.queue.setDirtyLog(rig.log, usedLogAddress: nil)
            try rig.serve(written: written)
            #expect(rig.marked == pages)
        }
    }

    @Test("with the used ring, if that has a log address", arguments: RingKind.allCases)
    func usedRing(kind: RingKind) throws {
        let rig = try Rig(kind)
        rig.pair.queue.setDirtyLog(rig.log, usedLogAddress: GuestAddress(0x1_0ffc))
        try rig.serve(written: 0)
        // Split: the index is at byte 2, the first entry at byte 4. Packed: at bytes 8 to 16.
        #expect(rig.marked == (kind.isPacked ? [0x11] : [0x10, 0x11]))
    }

    @Test("with what tells the driver when to kick", arguments: RingKind.allCases)
    func notifications(kind: RingKind) throws {
        let rig = try Rig(kind)
        rig.pair.queue.setDirtyLog(rig.log, usedLogAddress: GuestAddress(0x1_0000))
        _ = rig.pair.queue.enableNotifications()
        #expect(rig.marked == (kind.isPacked ? [0] : [0x10]))
    }

    @Test("from the start, if the setup says so", arguments: RingKind.plain)
    func fromSetup(kind: RingKind) throws {
        let rig = try Rig(kind)
        var setup = rig.pair.queue.setup
        setup.dirtyLog = rig.log
        let queue = try Virtqueue(setup)
        _ = rig.pair.send(readable: [], writable: [rig.first])
        #expect(try queue.pop(into: rig.chain))
        queue.push(rig.chain, written: 1)
        #expect(rig.marked == [0x20])
    }

    @Test("until that is switched off", arguments: RingKind.plain)
    func switchedOff(kind: RingKind) throws {
        let rig = try Rig(kind)
        rig.pair.queue.setDirtyLog(rig.log, usedLogAddress: GuestAddress(0))
        rig.pair.queue.setDirtyLog(nil, usedLogAddress: nil)
        try rig.serve(written: 0x4000)
        #expect(rig.marked == [])
    }

    @Test("and the log may change while the queue runs", arguments: RingKind.plain)
    func concurrentChange(kind: RingKind) throws {
        let rig = try Rig(kind)
        let other = DirtyLog(try MemoryMapping(anonymous: 4096))
        let queue = rig.pair.queue
        let log = rig.log
        let thread = try Thread(name: "control") {
            for _ in 0..<20_000 {
                queue.setDirtyLog(other, usedLogAddress: nil)
                queue.setDirtyLog(nil, usedLogAddress: nil)
            }
            queue.setDirtyLog(log, usedLogAddress: GuestAddress(0x1_0000))
        }
        for _ in 0..<2000 {
            try rig.serve(written: 1)
            _ = try rig.pair.driver.popUsed()
        }
        thread.join()
        try rig.serve(written: 1)
        #expect(rig.log.isMarked(page: 0x20))
        #expect(rig.log.isMarked(page: 0x10))
    }
}
