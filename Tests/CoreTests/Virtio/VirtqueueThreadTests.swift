import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@Suite("A virtqueue between two threads")
struct VirtqueueThreadTests {
    private final class Outcome: Sendable {
        let flag = Atomic(false)

        var isGood: Bool { flag.load(ordering: .relaxed) }
    }

    /// Waits for a descriptor to become readable.
    /// - Returns: `false` after five seconds, which only a lost notification explains.
    private static func wait(_ event: EventFD) -> Bool {
        var poller = pollfd(fd: event.rawValue, events: Int16(POLLIN), revents: 0)
        // SAFETY: one element, alive for the call.
        let count = unsafe poll(&poller, 1, 5000)
        event.drain()
        return count == 1
    }

    /// The device's side: sleeps whenever it may, until the driver is done.
    private static func serve(_ queue: Virtqueue, _ kick: EventFD, _ call: EventFD, count: Int)
        -> Bool
    {
        let chain = DescriptorChain()
        var done = 0
        while done < count {
            repeat {
                queue.disableNotifications()
                while (try? queue.pop(into: chain)) == true {
                    let token = chain.read(at: 0, as: UInt64.self) ?? 0
                    chain.write(at: 0, ~token)
                    queue.push(chain, written: 8)
                    done += 1
                    // Batches of different lengths.
                    if done % 5 == 0, queue.publish() { call.signal() }
                }
                if queue.publish() { call.signal() }
            } while queue.enableNotifications()
            if done < count, !wait(kick) { return false }
        }
        return !queue.isBroken
    }

    @Test(
        "loses no request and no notification", arguments: RingKind.allCases, [4, 64] as [UInt16])
    func pingPong(kind: RingKind, size: UInt16) throws {
        let count = 20_000
        let pair = try RingPair(kind, size: size)
        let kick = try EventFD()
        let call = try EventFD()
        let good = Outcome()
        let queue = pair.queue
        try withThread({
            good.flag.store(Self.serve(queue, kick, call, count: count), ordering: .relaxed)
        }) {
            let slots = (0..<Int(size)).map { _ in (pair.scratch.buffer(8), pair.scratch.buffer(8))
            }
            var sent = 0
            var received = 0
            while received < count {
                pair.driver.disableCalls()
                while sent < count, sent - received < Int(size) {
                    let (request, answer) = slots[sent % Int(size)]
                    try pair.scratch.memory.write(request.address, UInt64(sent))
                    guard
                        pair.driver.add(
                            readable: [request], writable: [answer], token: UInt64(sent))
                    else { break }
                    sent += 1
                    if pair.driver.publish() { kick.signal() }
                }
                repeat {
                    while let used = try pair.driver.popUsed() {
                        let answer = slots[Int(used.token) % Int(size)].1
                        let value = try pair.scratch.memory.read(answer.address, as: UInt64.self)
                        try #require(value == ~used.token)
                        received += 1
                    }
                } while pair.driver.enableCalls()
                if received < sent, sent == count || pair.driver.freeCount < 2 {
                    try #require(Self.wait(call), "no call came")
                }
            }
        }
        #expect(good.isGood)
    }

    /// Runs `other` on a thread while `body` runs here.
    private func withThread(
        _ other: @escaping @Sendable () -> Void, _ body: () throws -> Void
    ) throws {
        let thread = try Thread(name: "device", body: other)
        defer { thread.join() }
        try body()
    }
}
