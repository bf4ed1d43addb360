import Core
import TestSupport
import Testing

@Suite("Notifications of a virtqueue")
struct VirtqueueNotificationTests {
    private func fill(_ pair: RingPair, _ count: Int) throws {
        let buffer = pair.scratch.buffer(16)
        for _ in 0..<count { pair.driver.add(readable: [buffer], writable: []) }
        _ = pair.driver.publish()
    }

    private func serve(_ pair: RingPair, _ count: Int) throws {
        let chain = DescriptorChain()
        for _ in 0..<count {
            #expect(try pair.queue.pop(into: chain))
            pair.queue.push(chain, written: 0)
        }
    }

    /// A pair whose first batch, which is signalled in any case, is behind it.
    private func warm(_ kind: RingKind) throws -> RingPair {
        let pair = try RingPair(kind, size: 16)
        try fill(pair, 1)
        try serve(pair, 1)
        #expect(pair.queue.publish())
        _ = try pair.driver.popUsed()
        return pair
    }

    @Test("the driver is called if it asked for that", arguments: RingKind.allCases)
    func callWanted(kind: RingKind) throws {
        let pair = try warm(kind)
        #expect(!pair.driver.enableCalls())
        try fill(pair, 2)
        try serve(pair, 2)
        #expect(pair.queue.publish())
    }

    @Test(
        "the driver is not called if it polls",
        arguments: [RingKind.split, .packed, .packedEventIndex])
    func callUnwanted(kind: RingKind) throws {
        let pair = try warm(kind)
        pair.driver.disableCalls()
        try fill(pair, 2)
        try serve(pair, 2)
        #expect(!pair.queue.publish())
    }

    @Test("with event indices the driver is called once", arguments: RingKind.withEventIndex)
    func calledOnce(kind: RingKind) throws {
        let pair = try warm(kind)
        #expect(!pair.driver.enableCalls())
        try fill(pair, 2)
        try serve(pair, 1)
        #expect(pair.queue.publish())
        try serve(pair, 1)
        #expect(!pair.queue.publish())
    }

    @Test(
        "with event indices the driver chooses when it is called",
        arguments: RingKind.withEventIndex)
    func calledLater(kind: RingKind) throws {
        let pair = try warm(kind)
        for _ in 0..<40 {
            #expect(!pair.driver.enableCalls(after: 3))
            try fill(pair, 4)
            var calls: [Bool] = []
            for _ in 0..<4 {
                try serve(pair, 1)
                calls.append(pair.queue.publish())
            }
            #expect(calls == [false, false, true, false])
            while try pair.driver.popUsed() != nil {}
        }
    }

    @Test("the driver learns of what was used before it asked", arguments: RingKind.allCases)
    func usedMeanwhile(kind: RingKind) throws {
        let pair = try warm(kind)
        try fill(pair, 1)
        try serve(pair, 1)
        _ = pair.queue.publish()
        #expect(pair.driver.enableCalls())
    }

    @Test("the device is kicked if it asked for that", arguments: RingKind.allCases)
    func kickWanted(kind: RingKind) throws {
        let pair = try warm(kind)
        let buffer = pair.scratch.buffer(16)
        for _ in 0..<40 {
            pair.queue.disableNotifications()
            #expect(!pair.queue.enableNotifications())
            #expect(pair.send(readable: [buffer], writable: []))
            try serve(pair, 1)
            _ = pair.queue.publish()
            _ = try pair.driver.popUsed()
        }
    }

    @Test("the device is not kicked while it is busy", arguments: RingKind.allCases)
    func kickUnwanted(kind: RingKind) throws {
        let pair = try warm(kind)
        let buffer = pair.scratch.buffer(16)
        pair.queue.disableNotifications()
        #expect(!pair.send(readable: [buffer], writable: []))
        #expect(pair.queue.enableNotifications())
    }

    @Test("with event indices the device is kicked once", arguments: RingKind.withEventIndex)
    func kickedOnce(kind: RingKind) throws {
        let pair = try warm(kind)
        let buffer = pair.scratch.buffer(16)
        #expect(!pair.queue.enableNotifications())
        #expect(pair.send(readable: [buffer], writable: []))
        #expect(!pair.send(readable: [buffer], writable: []))
        #expect(!pair.send(readable: [buffer], writable: []))
    }

    @Test("the device learns of what was added before it asked", arguments: RingKind.allCases)
    func addedMeanwhile(kind: RingKind) throws {
        let pair = try warm(kind)
        pair.queue.disableNotifications()
        try fill(pair, 1)
        #expect(pair.queue.enableNotifications())
        try serve(pair, 1)
        #expect(!pair.queue.enableNotifications())
    }

    @Test("it is known how many requests wait", arguments: RingKind.allCases)
    func waiting(kind: RingKind) throws {
        let pair = try warm(kind)
        // More often than the ring is long.
        for _ in 0..<12 {
            #expect(!pair.queue.hasAvailable(1))
            try fill(pair, 3)
            #expect(pair.queue.hasAvailable(3))
            #expect(!pair.queue.hasAvailable(4))
            try serve(pair, 1)
            #expect(pair.queue.hasAvailable(2))
            #expect(!pair.queue.hasAvailable(3))
            try serve(pair, 2)
            _ = pair.queue.publish()
            for _ in 0..<3 { _ = try pair.driver.popUsed() }
        }
        #expect(!pair.queue.hasAvailable(1000))
    }
}
