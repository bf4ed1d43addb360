import Core
import TestSupport
import Testing

@testable import NetworkBackend

@Suite struct ControlQueueTests {
    @Test(
        "the driver says how many pairs it uses",
        arguments: [
            ([4, 0, 1, 0], 0, 1), ([4, 0, 4, 0], 0, 4), ([4, 0, 5, 0], 1, nil),
            ([4, 0, 0, 0], 1, nil), ([4, 0, 1], 1, nil), ([4, 1, 1, 0], 1, nil),
            ([0, 0, 1], 1, nil), ([], 1, nil),
        ] as [([UInt8], UInt8, Int?)])
    func pairs(_ command: [UInt8], _ answer: UInt8, _ count: Int?) throws {
        let loop = try EventLoop()
        let scratch = try ScratchMemory()
        let driver = DriverQueue(scratch, size: 8, features: VirtioFeature.version1)
        let (kick, call) = try (EventFD(), EventFD())
        var told: Int?
        let queue = try ControlQueue(
            driver.setup(scratch.memory, kick: kick, call: call), index: 2, on: loop, pairCount: 4
        ) { told = $0 }
        let place = scratch.place([0xee])
        driver.add(readable: command.map { scratch.place([$0]) }, writable: [place])
        if driver.publish() { kick.signal() }
        var used: UsedRequest?
        _ = loop.run(timeoutMilliseconds: 5000) {
            used = (try? driver.popUsed()) ?? nil
            return used != nil
        }
        #expect(used?.written == 1)
        #expect(scratch.bytes(place) == [answer])
        #expect(told == count)
        #expect(queue.stop() == driver.state)
    }
}
