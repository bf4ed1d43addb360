internal import Core
internal import Glibc

/// Sleeps until something happens that a pair of queues waits for.
struct Poller {
    struct Events: OptionSet {
        let rawValue: UInt8

        static let stop = Events(rawValue: 1)
        static let receiveKick = Events(rawValue: 2)
        static let transmitKick = Events(rawValue: 4)
        static let readable = Events(rawValue: 8)
        static let writable = Events(rawValue: 16)
        static let hangup = Events(rawValue: 32)

        /// As if all had happened that is worth a look.
        static let all: Events = [.receiveKick, .transmitKick, .readable]
    }

    /// What is waited for.
    struct Wish {
        let stop: EventFD
        let receiveKick: EventFD?
        let transmitKick: EventFD?
        let readFD: Int32
        let wantsToRead: Bool
        let writeFD: Int32
        /// By the monotonic clock.
        let deadline: UInt64?
        let mayBlock: Bool
    }

    func wait(_ wish: Wish) -> Events {
        // SAFETY: all five entries are initialised before the call, which changes no others.
        unsafe withUnsafeTemporaryAllocation(of: pollfd.self, capacity: 5) { fds in
            let input = Int16(POLLIN)
            func entry(_ index: Int, _ fd: Int32, _ events: Int16) {
                unsafe fds.initializeElement(
                    at: index, to: pollfd(fd: fd, events: events, revents: 0))
            }
            entry(0, wish.stop.rawValue, input)
            entry(1, wish.receiveKick?.rawValue ?? -1, input)
            entry(2, wish.transmitKick?.rawValue ?? -1, input)
            entry(3, wish.readFD, wish.wantsToRead ? input : 0)
            entry(4, wish.writeFD, Int16(POLLOUT))
            _ = unsafe poll(fds.baseAddress, 5, timeout(wish))
            var events: Events = []
            for index in 0..<5 {
                let result = unsafe fds[index].revents
                if result == 0 { continue }
                events.insert(Events(rawValue: 1 << UInt8(index)))
                // One that is not read from is asked whether it has ended by this alone.
                let isOver = result & Int16(POLLHUP | POLLERR | POLLNVAL) != 0
                if index == 3, isOver, !wish.wantsToRead { events.insert(.hangup) }
            }
            if events.contains(.receiveKick) { wish.receiveKick?.drain() }
            if events.contains(.transmitKick) { wish.transmitKick?.drain() }
            return events
        }
    }

    private func timeout(_ wish: Wish) -> Int32 {
        guard wish.mayBlock else { return 0 }
        guard let deadline = wish.deadline else { return -1 }
        return Clock.milliseconds(until: deadline)
    }
}
