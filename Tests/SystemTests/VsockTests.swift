import Core
import Foundation
import TestSupport
import Testing

@Suite("Sockets between guest and host", .needs(.guest), .serialized)
struct VsockTests {
    private let folder: TestFolder
    private let guest: Guest

    init() throws {
        folder = try TestFolder()
        let disk = "\(folder.path)/root.ext4"
        try Guest.makeDisk(disk)
        try GuestTool.install("vsock", on: disk, folder)
        guest = try Guest(["--vsock", "5,path=\(folder.path)/vsock"], in: folder)
        try guest.awaitShell()
        #expect(try guest.run("modprobe vmw_vsock_virtio_transport && echo loaded") == "loaded")
    }

    /// Reads until the other side ends.
    private func readAll(_ socket: UnixSocket) throws -> [UInt8] {
        var all: [UInt8] = []
        while socket.waitReadable(timeoutMilliseconds: 60_000) {
            guard let piece = try socket.receive(upTo: 1 << 16)?.bytes else { continue }
            if piece.isEmpty { return all }
            all += piece
        }
        throw TestFailure("the stream does not end after \(all.count) bytes")
    }

    private func accept(_ listener: UnixListener) throws -> UnixSocket {
        let deadline = Date() + 60
        while Date() < deadline {
            if let socket = try listener.accept() { return socket }
            usleep(10_000)
        }
        throw TestFailure("the guest does not connect")
    }

    /// Connects to a port of the guest, once a program listens there.
    private func connect(to port: Int) throws -> UnixSocket {
        let deadline = Date() + 60
        while Date() < deadline {
            let socket = try UnixSocket(connectingTo: folder["vsock"])
            try socket.send(Array("CONNECT \(port)\n".utf8))
            guard socket.waitReadable(timeoutMilliseconds: 20_000),
                let answer = try socket.receive(upTo: 64)?.bytes
            else { continue }
            if answer.starts(with: "OK ".utf8) { return socket }
            usleep(100_000)
        }
        throw TestFailure("the guest does not listen")
    }

    @Test("streams in both directions arrive whole and end", .timeLimit(.minutes(15)))
    func streams() throws {
        let listener = try UnixListener(path: folder["vsock_1234"])
        guest.send("head -c 4000000 /dev/urandom >/run/sent; /bin/vsock 1234 </run/sent >/run/got")
        let up = try accept(listener)
        let sent = try readAll(up)
        #expect(sent.count == 4_000_000)
        // It goes back on the same connection, whose one half the guest has closed.
        try up.send(sent, timeoutMilliseconds: 60_000)
        up.shutDown()
        #expect(try guest.run("cmp /run/sent /run/got && echo same") == "same")

        guest.send("/bin/vsock -l 99 </dev/null >/run/down &")
        let down = try connect(to: 99)
        try down.send(sent, timeoutMilliseconds: 60_000)
        down.shutDown()
        #expect(try guest.run("wait; cmp /run/sent /run/down && echo same") == "same")
        // Nobody listens on the host.
        #expect(try guest.run("/bin/vsock 4321 </dev/null 2>&1").contains("reset by peer"))
        #expect(try guest.powerOff() == 0)
    }

    @Test(
        "a killed back end ends the connections, and others can be made", .timeLimit(.minutes(15)))
    func killed() throws {
        let listener = try UnixListener(path: folder["vsock_1234"])
        guest.send("(sleep 1000 | /bin/vsock 1234 >/run/got 2>&1; echo ended >/run/end) &")
        let first = try accept(listener)
        kill(try #require(guest.apus.child("apus-vsock")), SIGKILL)
        #expect(try readAll(first) == [])
        let ending = "n=0; until [ -s /run/got ] || [ $n = 30 ]; do sleep 1; n=$((n + 1)); done"
        #expect(try guest.run(ending + "; cat /run/got").hasPrefix("read: "))
        guest.send("echo again | /bin/vsock 1234")
        #expect(try readAll(accept(listener)) == Array("again\n".utf8))
        #expect(try guest.powerOff() == 0)
    }
}
