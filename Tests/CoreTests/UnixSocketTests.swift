import CLinux
import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@Suite struct UnixSocketTests {
    private let folder: TestFolder
    private let path: String

    init() throws {
        folder = try TestFolder()
        path = folder["socket"]
    }

    @Test("bytes and descriptors arrive, and dropping the message closes the descriptors")
    func descriptors() throws {
        let (near, far) = try UnixSocket.pair()
        let (probe, passed) = try UnixSocket.pair()
        var sent: [SharedFD] = [passed.fd]
        _ = consume passed
        try near.send([1, 2, 3], fds: sent)
        sent = []
        var message = try far.receive(upTo: 100)
        #expect(message?.bytes == [1, 2, 3])
        #expect(message?.fds.count == 1)
        #expect(try probe.receive(upTo: 1) == nil)
        message = nil
        #expect(try probe.receive(upTo: 1)?.bytes == [])
    }

    @Test("a signal cuts no wait short")
    func signals() throws {
        let (near, far) = try UnixSocket.pair()
        // By default this one is ignored, so nobody is harmed by it.
        var action = sigaction()
        // SAFETY: the handler takes no more than the number.
        unsafe action.__sigaction_handler.sa_handler = { _ in }
        #expect(unsafe sigaction(SIGURG, &action, nil) == 0)
        let waiter = pthread_self()
        let isFirstOver = Atomic<Bool>(false)
        let sender = try Thread(name: "test-signals") {
            // Some in each of the two waits.
            var left = 5
            while left > 0 {
                if isFirstOver.load(ordering: .acquiring) { left -= 1 }
                Clock.sleep(milliseconds: 20)
                pthread_kill(waiter, SIGURG)
            }
            Clock.sleep(milliseconds: 20)
            try? far.send([1])
        }
        let start = Clock.monotonic()
        #expect(!near.waitReadable(timeoutMilliseconds: 100))
        #expect(Clock.monotonic() - start >= 100_000_000)
        isFirstOver.store(true, ordering: .releasing)
        #expect(near.waitReadable(timeoutMilliseconds: 5000))
        #expect(try near.receive(upTo: 1)?.bytes == [1])
        sender.join()
    }

    @Test("receiving does not wait, and the end of the stream is no bytes")
    func endOfStream() throws {
        var pair: (UnixSocket, UnixSocket)? = try UnixSocket.pair()
        let near = try #require(pair?.0)
        #expect(try near.receive(upTo: 1) == nil)
        #expect(!near.waitReadable(timeoutMilliseconds: 0))
        pair = nil
        #expect(near.waitReadable(timeoutMilliseconds: 1000))
        #expect(try near.receive(upTo: 1)?.bytes == [])
    }

    @Test("a peer that does not read makes sending fail after the timeout")
    func sendTimeout() throws {
        let (near, far) = try UnixSocket.pair()
        let bytes = [UInt8](repeating: 0, count: 4 << 20)
        #expect(throws: SystemError("sendmsg", errno: ETIMEDOUT)) {
            try near.send(bytes, timeoutMilliseconds: 20)
        }
        withExtendedLifetime(far) {}
    }

    @Test(
        "sending has a limit also on a socket that a peer has made blocking",
        .timeLimit(.minutes(1)))
    func sharedFlags() throws {
        let (near, far) = try UnixSocket.pair()
        // As another process can that holds the same end.
        _ = clinux_fcntl(near.fd.rawValue, F_SETFL, 0)
        #expect(throws: SystemError("sendmsg", errno: ETIMEDOUT)) {
            try near.send([UInt8](repeating: 0, count: 4 << 20), timeoutMilliseconds: 20)
        }
        withExtendedLifetime(far) {}
    }

    @Test("a listener takes connections by path and removes its file")
    func listen() throws {
        var listener: UnixListener? = try UnixListener(path: path)
        let client = try UnixSocket(connectingTo: path)
        let server = try #require(try listener?.accept())
        try client.send([42])
        #expect(try server.receive(upTo: 8)?.bytes == [42])
        #expect(try listener?.accept() == nil)
        listener = nil
        let isThere = unsafe access(path, F_OK) == 0
        #expect(!isThere)
    }

    @Test("a stale socket file is replaced, one that answers is not")
    func stale() throws {
        let raw = clinux_unix_socket()
        let bound = unsafe clinux_unix_bind(raw, path)
        #expect(bound == 0)
        close(raw)
        let listener = try UnixListener(path: path)
        #expect(throws: SystemError("bind", errno: EADDRINUSE)) { try UnixListener(path: path) }
        withExtendedLifetime(listener) {}
    }

    @Test("a file that is no socket is left alone")
    func foreignFile() throws {
        try folder.file("socket")
        #expect(throws: SystemError("bind", errno: EADDRINUSE)) { try UnixListener(path: path) }
        #expect(try readFile(path).isEmpty)
    }

    @Test("a passed socket is recognised as listening or connected")
    func inherited() throws {
        let listener = try UnixListener(path: path)
        let (near, _) = try UnixSocket.pair()
        guard case .listening = try InheritedSocket(listener.fd) else {
            Issue.record("a listening socket was taken for a connected one")
            return
        }
        guard case .connected = try InheritedSocket(near.fd) else {
            Issue.record("a connected socket was taken for a listening one")
            return
        }
    }
}
