import CLinux
import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@Suite struct EventLoopTests {
    @Test("a watched descriptor calls its handler until the registration is cancelled")
    func watch() throws {
        let loop = try EventLoop()
        let event = try EventFD()
        var calls = 0
        let token = loop.watch(event.rawValue, for: .readable) { events in
            #expect(events == .readable)
            event.drain()
            calls += 1
        }
        event.signal()
        #expect(loop.run { calls == 1 })
        event.signal()
        #expect(loop.run { calls == 2 })
        token.cancel()
        event.signal()
        loop.runOnce(timeoutMilliseconds: 5)
        #expect(calls == 2)
    }

    @Test("a handler that is cancelled while its event is pending is not called")
    func lateEvent() throws {
        let loop = try EventLoop()
        let first = try EventFD()
        let second = try EventFD()
        var called: [Int] = []
        var tokens: [EventRegistration] = []
        for (number, event) in [first, second].enumerated() {
            tokens.append(
                loop.watch(event.rawValue, for: .readable) { _ in
                    called.append(number)
                    for token in tokens { token.cancel() }
                })
            event.signal()
        }
        loop.runOnce(timeoutMilliseconds: 100)
        loop.runOnce(timeoutMilliseconds: 5)
        #expect(called.count == 1)
    }

    @Test("dropping a registration releases what its handler holds")
    func release() throws {
        final class Witness {}
        let loop = try EventLoop()
        let event = try EventFD()
        var witness: Witness? = Witness()
        weak let observed = witness
        var token: EventRegistration? = loop.watch(event.rawValue, for: .readable) {
            [witness] _ in
            _ = witness
        }
        witness = nil
        #expect(observed != nil)
        _ = token
        token = nil
        #expect(observed == nil)
    }

    @Test("a hangup is reported although only readability was asked for")
    func hangup() throws {
        let loop = try EventLoop()
        var pair: (UnixSocket, UnixSocket)? = try UnixSocket.pair()
        let near = try #require(pair?.0)
        var seen: IOEvents = []
        let token = loop.watch(near.fd.rawValue, for: .readable) { seen = $0 }
        pair = nil
        #expect(loop.run { seen.contains(.hangup) })
        token.cancel()
    }

    @Test("timers fire once or again and again")
    func timers() throws {
        let loop = try EventLoop()
        var once = 0
        var often = 0
        let single = loop.after(milliseconds: 1) { once += 1 }
        let periodic = loop.every(milliseconds: 1) { often += 1 }
        #expect(loop.run { often >= 3 })
        #expect(once == 1)
        single.cancel()
        periodic.cancel()
    }

    @Test("posted work runs in order on the loop's thread, and quit ends run")
    func post() throws {
        let loop = try EventLoop()
        let seen = Mutex<[Int]>([])
        let thread = try Thread(name: "test-loop") { loop.run() }
        for number in 0..<100 { loop.post { seen.withLock { $0.append(number) } } }
        loop.post { loop.quit() }
        thread.join()
        #expect(seen.withLock { $0 } == Array(0..<100))
    }

    @Test("quit before run makes run return at once")
    func earlyQuit() throws {
        let loop = try EventLoop()
        loop.quit()
        loop.run()
    }

    @Test("a signal that is sent to the loop's thread reaches the handler")
    func signals() throws {
        let seen = Mutex<[Int32]>([])
        let loop = try EventLoop()
        let thread = try Thread(name: "test-signals") {
            // Signals of a thread are blocked in that thread only, so that other tests are not
            // disturbed.
            let token = try? loop.watchSignals([SIGUSR1]) { signal in
                seen.withLock { $0.append(signal) }
                loop.quit()
            }
            _ = pthread_kill(pthread_self(), SIGUSR1)
            loop.run()
            token?.cancel()
        }
        thread.join()
        #expect(seen.withLock { $0 } == [SIGUSR1])
    }

    @Test(
        "the end of a child is reported once, with its status",
        arguments: [
            ("exit 3", ChildStatus.exited(3)), ("kill -9 $$", ChildStatus.killed(signal: SIGKILL)),
        ])
    func childExit(script: String, expected: ChildStatus) throws {
        let loop = try EventLoop()
        let child = try ChildProcess(
            path: "/bin/sh", arguments: ["sh", "-c", script], environment: [])
        var seen: [ChildStatus] = []
        let token = loop.watchExit(of: child) { seen.append($0) }
        #expect(loop.run { !seen.isEmpty })
        loop.runOnce(timeoutMilliseconds: 5)
        #expect(seen == [expected])
        token.cancel()
    }
}
