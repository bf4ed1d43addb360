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

    // MARK: Longer spans

    /// Has sleeps of some length, in nanoseconds, until a longer span is tried.
    /// - Returns: how many it took.
    private func sleepsUntilTrial(_ polling: inout IdlePolling, idle: UInt64, most: Int) -> Int? {
        for count in 0..<most {
            if polling.begin(now: 0) { return count }
            polling.endSleep(now: idle)
        }
        return nil
    }

    /// Finds work after a while as often as a trial takes.
    private func endTrial(_ polling: inout IdlePolling, wait: UInt64) {
        for _ in 0..<16 {
            let looks = polling.begin(now: 0)
            #expect(looks)
            polling.found(now: wait)
        }
    }

    private func expectLooks(_ polling: inout IdlePolling, _ wanted: Bool) {
        let looks = polling.begin(now: 0)
        #expect(looks == wanted)
    }

    @Test("a longer span is kept where it halves the wait")
    func slowWaking() {
        var polling = IdlePolling(microseconds: 32)
        let sleeps = sleepsUntilTrial(&polling, idle: 200_000, most: 100)
        #expect(sleeps == 16)
        endTrial(&polling, wait: 20_000)
        expectLooks(&polling, true)
        // One that comes too late is an exception, not the end of it.
        polling.endSleep(now: 250_000)
        expectLooks(&polling, true)
    }

    @Test("a longer span that gains little is given up, and tried ever more rarely")
    func fastWaking() {
        var polling = IdlePolling(microseconds: 32)
        var counts: [Int] = []
        for _ in 0..<10 {
            guard let count = sleepsUntilTrial(&polling, idle: 200_000, most: 5000) else { break }
            counts.append(count)
            endTrial(&polling, wait: 180_000)
            expectLooks(&polling, false)
        }
        #expect(counts == [16, 32, 64, 128, 256, 512, 1024, 2048, 2048, 2048])
    }

    @Test("a trial ends where work does not come")
    func trialWithoutWork() {
        var polling = IdlePolling(microseconds: 32)
        let sleeps = sleepsUntilTrial(&polling, idle: 200_000, most: 100)
        #expect(sleeps == 16)
        polling.endSleep(now: 1_000_000)
        expectLooks(&polling, false)
    }

    @Test("no longer span is tried where work comes rarely", arguments: [400_000, 1_000_000_000])
    func rareWork(idle: UInt64) {
        var polling = IdlePolling(microseconds: 32)
        let sleeps = sleepsUntilTrial(&polling, idle: idle, most: 10_000)
        #expect(sleeps == nil)
    }
}
