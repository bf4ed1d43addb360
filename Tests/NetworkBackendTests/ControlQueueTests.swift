import Core
import TestSupport
import Testing

@testable import NetworkBackend

@Suite struct ControlQueueTests {
    /// Sends a command and returns the answer, and what became of it.
    private func ask(
        _ commands: [[UInt8]], filter: ReceiveFilter = ReceiveFilter()
    ) throws -> (answers: [UInt8], events: [ControlQueue.Event]) {
        let loop = try EventLoop()
        let scratch = try ScratchMemory()
        let driver = DriverQueue(scratch, size: 64, features: VirtioFeature.version1)
        let (kick, call) = try (EventFD(), EventFD())
        var events: [ControlQueue.Event] = []
        let queue = try ControlQueue(
            driver.setup(scratch.memory, kick: kick, call: call), index: 2, on: loop,
            pairCount: 4, filter: filter
        ) { events.append($0) }
        var answers: [UInt8] = []
        for command in commands {
            let place = scratch.place([0xee])
            let readable = command.isEmpty ? [] : [scratch.place(command)]
            driver.add(readable: readable, writable: [place])
            if driver.publish() { kick.signal() }
            var used: UsedRequest?
            _ = loop.run(timeoutMilliseconds: 5000) {
                used = (try? driver.popUsed()) ?? nil
                return used != nil
            }
            #expect(used?.written == 1)
            answers += scratch.bytes(place)
        }
        #expect(queue.stop() == driver.state)
        return (answers, events)
    }

    private func lastFilter(_ events: [ControlQueue.Event]) -> ReceiveFilter? {
        guard case .filter(let filter)? = events.last else { return nil }
        return filter
    }

    @Test(
        "the driver says how many pairs it uses",
        arguments: [
            ([4, 0, 1, 0], 0, 1), ([4, 0, 4, 0], 0, 4), ([4, 0, 5, 0], 1, nil),
            ([4, 0, 0, 0], 1, nil), ([4, 0, 1], 1, nil), ([4, 1, 1, 0], 1, nil), ([], 1, nil),
        ] as [([UInt8], UInt8, Int?)])
    func pairs(_ command: [UInt8], _ answer: UInt8, _ count: Int?) throws {
        let (answers, events) = try ask([command])
        #expect(answers == [answer])
        guard case .pairs(let told)? = events.first else {
            #expect(count == nil)
            return
        }
        #expect(told == count)
    }

    @Test("the driver says which addresses it wants")
    func addresses() throws {
        let one: [UInt8] = [2, 0, 0, 0, 0, 7]
        let group: [UInt8] = [1, 0, 0x5e, 0, 0, 1]
        let (answers, events) = try ask(
            [
                [0, 0, 0], [0, 1, 0],
                [1, 0, 1, 0, 0, 0] + one + [1, 0, 0, 0] + group,
            ], filter: ReceiveFilter(own: address(1)))
        #expect(answers == [0, 0, 0])
        let filter = try #require(lastFilter(events))
        #expect(filter.isActive)
        #expect(
            [address(1), address(7), everybody, 0x0100_5e00_0001].allSatisfy {
                filter.takes($0)
            })
        #expect(!filter.takes(address(2)))
        #expect(!filter.takes(0x0100_5e00_0002))
    }

    @Test("more addresses than are told apart are all")
    func many() throws {
        let list: [UInt8] = (0..<65).flatMap { [2, 0, 0, 0, 1, UInt8($0)] as [UInt8] }
        let (answers, events) = try ask(
            [[0, 0, 0], [0, 1, 0], [1, 0, 65, 0, 0, 0] + list + [0, 0, 0, 0]],
            filter: ReceiveFilter(own: address(1)))
        #expect(answers == [0, 0, 0])
        let filter = try #require(lastFilter(events))
        #expect(filter.takes(address(2)))
        #expect(!filter.takes(0x0100_5e00_0002))
    }

    @Test("networks are told apart once one was named")
    func networks() throws {
        let (answers, events) = try ask([[2, 0, 5, 0], [2, 0, 6, 0], [2, 1, 5, 0]])
        #expect(answers == [0, 0, 0])
        let filter = try #require(lastFilter(events))
        #expect(filter.takes(tag: 0x8100_0006))
        #expect(filter.takes(tag: 0x8100_e006))
        #expect(filter.takes(tag: 0x8100_0000))
        #expect(filter.takes(tag: 0x0800_4500))
        #expect(!filter.takes(tag: 0x8100_0005))
    }

    @Test(
        "commands that make no sense are errors",
        arguments: [
            [0, 0], [0, 7, 1], [1, 0, 1, 0, 0, 0, 1, 2, 3], [1, 0, 0xff, 0xff, 0xff, 0xff],
            [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 2, 0], [2, 0, 0, 0x10], [2, 0, 1], [9, 9],
        ] as [[UInt8]])
    func senseless(_ command: [UInt8]) throws {
        let (answers, events) = try ask([command])
        #expect(answers == [1])
        #expect(events.isEmpty)
    }
}
