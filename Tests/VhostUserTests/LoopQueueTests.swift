import Core
import TestSupport
import Testing

@testable import VhostUser

@Suite struct LoopQueueTests {
    /// A driver and a loop that serves its queue.
    private struct Rig {
        let loop: EventLoop
        let scratch: ScratchMemory
        let driver: DriverQueue
        let error: EventFD
        let setup: QueueSetup

        init(ring: UInt64) throws {
            loop = try EventLoop()
            scratch = try ScratchMemory(size: 1 << 20)
            driver = DriverQueue(scratch, size: 8, features: ring | VirtioFeature.version1)
            error = try EventFD()
            var setup = driver.setup(scratch.memory, kick: try EventFD(), call: try EventFD())
            setup.error = error
            self.setup = setup
        }

        func add() {
            driver.add(readable: [], writable: [scratch.buffer(8)])
            if driver.publish() { setup.kick?.signal() }
        }
    }

    @Test(
        "a driver that adds while its chains are taken does not keep the loop",
        arguments: [0, VirtioFeature.packedRing])
    func shares(ring: UInt64) throws {
        let rig = try Rig(ring: ring)
        let chain = DescriptorChain()
        var queue: LoopQueue?
        var turns: [Int] = []
        rig.add()
        queue = try LoopQueue(rig.setup, index: 0, on: rig.loop) {
            var count = 0
            // The limit ends the test where the queue does not.
            while count < 1000, queue?.pop(into: chain) == true {
                queue?.push(chain, written: 0)
                queue?.publish()
                _ = try? rig.driver.popUsed()
                rig.add()
                count += 1
            }
            turns.append(count)
        }
        // What is added is taken in later turns, and not lost.
        #expect(rig.loop.run { turns.count == 3 })
        #expect(turns == [8, 8, 8])
        queue = nil
    }

    @Test("a queue waits for no event that its driver has filled")
    func fullEvents() throws {
        let rig = try Rig(ring: 0)
        let chain = DescriptorChain()
        let kick = try #require(rig.setup.kick)
        let call = try #require(rig.setup.call)
        rig.add()
        var queue: LoopQueue?
        var isTaken = false
        #expect(
            try passesFullEvents(kick, call) {
                queue = try LoopQueue(rig.setup, index: 0, on: rig.loop) {
                    guard queue?.pop(into: chain) == true else { return }
                    queue?.push(chain, written: 0)
                    queue?.publish()
                    isTaken = true
                }
                _ = rig.loop.run(timeoutMilliseconds: 5000) { isTaken }
            })
        #expect(isTaken)
        queue = nil
    }

    @Test(
        "a queue that has broken says so once and yields nothing more",
        arguments: [0, VirtioFeature.packedRing])
    func breaks(ring: UInt64) throws {
        let rig = try Rig(ring: ring)
        let chain = DescriptorChain()
        // Not guest memory.
        let bad = DriverBuffer(GuestAddress(1 << 40), 8)
        rig.driver.add(readable: [bad], writable: [])
        _ = rig.driver.publish()
        let queue = try LoopQueue(rig.setup, index: 0, on: rig.loop) {}
        #expect(!queue.pop(into: chain))
        #expect(rig.error.drain())
        rig.add()
        #expect(!queue.pop(into: chain))
        #expect(!rig.error.drain())
    }
}
