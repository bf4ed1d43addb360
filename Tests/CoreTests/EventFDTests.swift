import Core
import Glibc
import Testing

@Suite struct EventFDTests {
    @Test("an event that a peer has made blocking is drained without waiting")
    func blocking() throws {
        let event = try EventFD()
        event.signal()
        event.signal()
        #expect(event.drain())
        #expect(!event.drain())
        // The flag is one for all who have the descriptor.
        let peer = dup(event.rawValue)
        defer { close(peer) }
        #expect(fcntl(peer, F_SETFL, fcntl(peer, F_GETFL) & ~O_NONBLOCK) == 0)
        #expect(fcntl(event.rawValue, F_GETFL) & O_NONBLOCK == 0)
        // This would never return.
        #expect(!event.drain())
        event.signal()
        #expect(event.drain())
    }

    @Test("a full event that a peer has made blocking is not waited for", .timeLimit(.minutes(1)))
    func full() throws {
        let event = try EventFD()
        var most = UInt64.max - 1
        #expect(unsafe write(event.rawValue, &most, 8) == 8)
        #expect(fcntl(event.rawValue, F_SETFL, fcntl(event.rawValue, F_GETFL) & ~O_NONBLOCK) == 0)
        event.signalIfRoom()
        #expect(event.drain())
        event.signalIfRoom()
        #expect(event.drain())
    }
}
