import CLinux
import Glibc
import Synchronization
import TestSupport
import Testing

@testable import Core

@Suite("What programs write to standard error")
struct ErrorRelayTests {
    private let relay: ErrorRelay
    private let programs: SharedFD
    private let target: UnixSocket

    /// What is written to the target waits for room, unless asked not to.
    init() throws {
        let pipe = try Pipe()
        programs = pipe.input
        let (near, far) = try UnixSocket.pair()
        target = far
        _ = try checking("fcntl", clinux_fcntl(near.fd.rawValue, F_SETFL, 0))
        relay = ErrorRelay(source: pipe.output, target: near.fd)
    }

    private func write(_ count: Int) {
        let bytes = [UInt8](repeating: 0x21, count: count)
        // SAFETY: the array has as many bytes.
        #expect(unsafe Glibc.write(programs.rawValue, bytes, count) == count)
    }

    @Test("is all passed on in the end")
    func all() throws {
        write(40_000)
        relay.passOnAll()
        var count = 0
        while let piece = try target.receive(upTo: 4096) { count += piece.bytes.count }
        #expect(count == 40_000)
        #expect(!relay.passOn())
    }

    @Test("is lost where nobody reads it, and holds up nobody")
    func unread() throws {
        // A byte leaves a socket of this size writable, and not for all that comes next.
        var size: Int32 = 1
        // SAFETY: the value lives for the call and has 4 bytes.
        _ = unsafe setsockopt(relay.target.rawValue, SOL_SOCKET, SO_SNDBUF, &size, 4)
        write(1)
        relay.passOn()
        write(2 * 4096)
        let isDone = SharedFlag()
        let (relay, source) = (relay, target)
        let thread = try Thread(name: "relay") {
            relay.passOn()
            relay.passOn()
            isDone.raise()
        }
        let deadline = Clock.monotonic() + 5_000_000_000
        while !isDone.isRaised, Clock.monotonic() < deadline { usleep(1000) }
        #expect(isDone.isRaised)
        // Whoever waits is let go.
        source.shutDown()
        thread.join()
    }

    private final class SharedFlag: Sendable {
        private let value = Atomic(false)

        var isRaised: Bool { value.load(ordering: .sequentiallyConsistent) }

        func raise() { value.store(true, ordering: .sequentiallyConsistent) }
    }
}
