import Core
import Glibc
import TestSupport
import Testing

@Suite struct IdlePollingTests {
    /// A queue whose thread has nothing to do.
    private final class IdleQueue {
        let scratch: ScratchMemory
        let driver: DriverQueue
        let queue: Virtqueue

        init(features: UInt64) throws {
            scratch = try ScratchMemory()
            driver = DriverQueue(scratch, size: 16, features: features)
            queue = try Virtqueue(driver.setup(scratch.memory))
            queue.disableNotifications()
            #expect(!queue.enableNotifications())
        }

        /// - Returns: whether the device wants a kick.
        func send() -> Bool {
            driver.add(readable: [scratch.buffer(16)], writable: [])
            return driver.publish()
        }
    }

    static let rings: [UInt64] = [
        0, VirtioFeature.eventIndex, VirtioFeature.packedRing,
        VirtioFeature.packedRing | VirtioFeature.eventIndex,
    ]

    @Test("work that comes soon is found, and the next needs no kick", arguments: rings)
    func soon(features: UInt64) throws {
        let idle = try IdleQueue(features: features)
        var polling = IdlePolling(microseconds: 1_000_000)
        let before = polling.find(in: idle.queue)
        polling.endSleep()
        #expect(idle.send())
        let after = polling.find(in: idle.queue)
        #expect(!before && after)
        #expect(!idle.send())
    }

    @Test("where nothing is found, the driver kicks", arguments: rings)
    func nothing(features: UInt64) throws {
        let idle = try IdleQueue(features: features)
        var polling = IdlePolling(microseconds: 1_000_000)
        let before = polling.find(in: idle.queue)
        polling.endSleep()
        let after = polling.find(in: idle.queue)
        #expect(!before && !after)
        #expect(idle.send())
    }

    @Test("who has slept for long does not look any more", arguments: rings)
    func rare(features: UInt64) throws {
        let idle = try IdleQueue(features: features)
        var polling = IdlePolling(microseconds: 1000)
        _ = polling.find(in: idle.queue)
        polling.endSleep()
        _ = polling.find(in: idle.queue)
        usleep(2000)
        polling.endSleep()
        #expect(idle.send())
        let found = polling.find(in: idle.queue)
        #expect(!found)
    }

    @Test("without a limit nobody looks")
    func off() throws {
        let idle = try IdleQueue(features: 0)
        var polling = IdlePolling(microseconds: 0)
        polling.endSleep()
        _ = idle.send()
        let found = polling.find(in: idle.queue)
        #expect(!found)
    }
}
