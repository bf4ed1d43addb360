import Core
import Foundation
import TestSupport
import Testing
import VhostUser

@testable import VsockBackend

@Suite("A socket device", .serialized)
struct VsockDeviceTests {
    private typealias Operation = VsockHeader.Operation

    /// A guest's connection from port 1000 to a program on the host that listens at port 80.
    private func connected(_ rig: VsockRig) throws -> UnixSocket {
        let listener = try UnixListener(path: rig.folder["vsock_80"])
        rig.send(Operation.request, guest: 1000, host: 80)
        let header = try #require(try rig.receive()).header
        #expect(header.operation == Operation.response)
        #expect(header.source == VsockAddress(cid: 2, port: 80))
        #expect(header.destination == VsockAddress(cid: VsockRig.cid, port: 1000))
        #expect(header.bufferSize == VsockConnection.bufferSize)
        return try #require(try listener.accept())
    }

    private func read(_ socket: UnixSocket, _ rig: VsockRig, upTo count: Int = 100) throws -> String
    {
        var bytes: [UInt8]?
        for _ in 0..<1000 where bytes == nil {
            rig.loop.runOnce(timeoutMilliseconds: 5)
            bytes = try socket.receive(upTo: count)?.bytes
        }
        return String(decoding: try #require(bytes), as: UTF8.self)
    }

    @Test("a guest connects to a program of the host", arguments: [0, VirtioFeature.packedRing])
    func fromGuest(ring: UInt64) throws {
        let rig = try VsockRig(ring: ring)
        let socket = try connected(rig)
        rig.send(Operation.data, guest: 1000, host: 80, Array("hello".utf8))
        #expect(try read(socket, rig) == "hello")
        try socket.send(Array("welcome".utf8))
        let answer = try #require(try rig.receive())
        #expect(answer.header.operation == Operation.data)
        #expect(answer.header.forwarded == 5)
        #expect(answer.bytes == Array("welcome".utf8))
        // The guest writes no more, then reads no more.
        rig.send(Operation.shutdown, guest: 1000, host: 80) { $0.flags = 2 }
        #expect(try read(socket, rig) == "")
        try socket.send(Array("last".utf8))
        #expect(try rig.receive()?.bytes == Array("last".utf8))
        rig.send(Operation.shutdown, guest: 1000, host: 80) { $0.flags = 3 }
        #expect(try rig.operation() == Operation.reset)
        #expect(throws: SystemError.self) { try socket.send([1]) }
    }

    @Test("a program of the host connects to the guest")
    func fromHost() throws {
        let rig = try VsockRig()
        let socket = try UnixSocket(connectingTo: rig.folder["vsock"])
        try socket.send(Array("CONNECT 5000\nearly".utf8))
        let header = try #require(try rig.receive()).header
        #expect(header.operation == Operation.request)
        #expect(header.destination.port == 5000)
        let port = header.source.port
        rig.send(Operation.response, guest: 5000, host: port)
        #expect(try rig.receive()?.bytes == Array("early".utf8))
        #expect(try read(socket, rig) == "OK \(port)\n")
        rig.send(Operation.data, guest: 5000, host: port, [65, 66])
        #expect(try read(socket, rig) == "AB")
        // The program leaves: the guest hears that it neither reads nor writes.
        socket.shutDown()
        let end = try #require(try rig.receive()).header
        #expect(end.operation == Operation.shutdown)
        #expect(end.flags == 3)
    }

    @Test("a guest that nobody listens in refuses, and the caller hears it")
    func refusedByGuest() throws {
        let rig = try VsockRig()
        let socket = try UnixSocket(connectingTo: rig.folder["vsock"])
        try socket.send(Array("CONNECT 5000\n".utf8))
        let port = try #require(try rig.receive()).header.source.port
        rig.send(Operation.reset, guest: 5000, host: port)
        #expect(try read(socket, rig) == "")
    }

    @Test("a caller that gives up before the guest has answered is gone")
    func impatientCaller() throws {
        let rig = try VsockRig()
        let port: UInt32
        do {
            let socket = try UnixSocket(connectingTo: rig.folder["vsock"])
            try socket.send(Array("CONNECT 5000\n".utf8))
            port = try #require(try rig.receive()).header.source.port
        }
        let end = try #require(try rig.receive()).header
        #expect(end.operation == Operation.reset)
        #expect(end.source.port == port)
    }

    @Test(
        "callers that do not keep to the protocol are left",
        arguments: [
            "CONNECT\n", "CONNECT x\n", "CONNECT +1\n", "GET / HTTP/1.1\n", "CONNECT 4294967296\n",
        ])
    func badCallers(line: String) throws {
        let rig = try VsockRig()
        let socket = try UnixSocket(connectingTo: rig.folder["vsock"])
        try socket.send(Array(line.utf8))
        #expect(try read(socket, rig) == "")
        #expect(try rig.receive(within: 50) == nil)
    }

    @Test("a port without a program is refused")
    func refused() throws {
        let rig = try VsockRig()
        rig.send(Operation.request, guest: 1000, host: 80)
        let header = try #require(try rig.receive()).header
        #expect(header.operation == Operation.reset)
        #expect(header.source.port == 80)
    }

    @Test("the guest is given no more than it has room for")
    func guestCredit() throws {
        let rig = try VsockRig()
        let socket = try connected(rig)
        rig.send(Operation.creditUpdate, guest: 1000, host: 80) { $0.bufferSize = 3 }
        try socket.send(Array("abcdef".utf8))
        #expect(try rig.receive()?.bytes == Array("abc".utf8))
        #expect(try rig.operation() == Operation.creditRequest)
        #expect(try rig.receive(within: 50) == nil)
        rig.send(Operation.creditUpdate, guest: 1000, host: 80) {
            $0.bufferSize = 3
            $0.forwarded = 2
        }
        #expect(try rig.receive()?.bytes == Array("de".utf8))
    }

    @Test("what the host does not read is kept, up to what the guest was promised")
    func hostCredit() throws {
        let rig = try VsockRig()
        let socket = try connected(rig)
        let piece = [UInt8](repeating: 7, count: 32 << 10)
        var sent = 0
        var forwarded: UInt32 = 0
        // Until neither the socket nor the device takes more.
        while UInt32(sent) &- forwarded <= VsockConnection.bufferSize - UInt32(piece.count) {
            rig.send(Operation.data, guest: 1000, host: 80, piece)
            sent += piece.count
            while let update = try rig.receive(within: 20) {
                forwarded = update.header.forwarded
                rig.offer(4096)
            }
            rig.send(Operation.creditRequest, guest: 1000, host: 80)
            forwarded = try #require(try rig.receive()).header.forwarded
            rig.offer(4096)
        }
        #expect(sent > Int(VsockConnection.bufferSize))
        // All of it arrives, and then the end.
        rig.send(Operation.shutdown, guest: 1000, host: 80) { $0.flags = 2 }
        var read = 0
        while case let count = try self.read(socket, rig, upTo: 1 << 16).utf8.count, count > 0 {
            read += count
        }
        #expect(read == sent)
    }

    @Test("a guest that sends more than it was promised loses the connection")
    func tooMuch() throws {
        let rig = try VsockRig()
        let socket = try connected(rig)
        rig.send(Operation.data, guest: 1000, host: 80, [1]) {
            $0.length = VsockConnection.bufferSize + 1
        }
        #expect(try rig.operation() == Operation.reset)
        #expect(try read(socket, rig) == "")
    }

    @Test("packets that make no sense are dropped or refused, and the device goes on")
    func nonsense() throws {
        let rig = try VsockRig()
        rig.send(Operation.request, guest: 1, host: 80) { $0.source.cid = 99 }
        rig.send(Operation.reset, guest: 1, host: 80)
        #expect(try rig.receive(within: 50) == nil)
        for change in [
            { $0.type = 2 }, { $0.destination.cid = 5 }, { $0.operation = 77 },
            { $0.operation = Operation.data },
        ] as [(inout VsockHeader) -> Void] {
            rig.send(Operation.request, guest: 1, host: 80, change: change)
            #expect(try rig.operation() == Operation.reset)
        }
        let socket = try connected(rig)
        rig.send(99, guest: 1000, host: 80)
        #expect(try rig.operation() == Operation.reset)
        #expect(try read(socket, rig) == "")
    }

    @Test("a guest whose connections were another process's is told that they are lost")
    func loss() throws {
        let rig = try VsockRig(state: QueueState(nextAvailable: 5, nextUsed: 5))
        #expect(try rig.used(2, within: 50) == nil)
        rig.offer(8, queue: 2)
        #expect(try rig.used(2) == [0, 0, 0, 0])
        rig.offer(8, queue: 2)
        #expect(try rig.used(2, within: 50) == nil)
    }

    @Test("many connections at a time", .timeLimit(.minutes(1)))
    func many() throws {
        let rig = try VsockRig()
        let listener = try UnixListener(path: rig.folder["vsock_80"])
        var sockets: [UnixSocket] = []
        for port in 0..<200 as Range<UInt32> {
            rig.send(Operation.request, guest: port, host: 80)
            #expect(try rig.operation() == Operation.response)
            rig.offer(4096)
            sockets.append(try #require(try listener.accept()))
        }
        for (index, socket) in sockets.enumerated() { try socket.send([UInt8(index)]) }
        var seen: Set<UInt8> = []
        for _ in sockets {
            let packet = try #require(try rig.receive())
            #expect(packet.bytes == [UInt8(packet.header.destination.port)])
            seen.formUnion(packet.bytes)
            rig.offer(64)
        }
        #expect(seen.count == sockets.count)
    }

    @Test("options")
    func options() throws {
        let options = try VsockOptions(VsockOptions.schema.parse("3,path=folder/name"))
        #expect(options.cid == 3)
        #expect(options.folder == "folder/")
        #expect(options.name == "name")
        for text in ["3", "path=x", "2,path=x", "3,path=folder/", "4294967295,path=x"] {
            #expect(throws: OptionError.self) { try VsockOptions(VsockOptions.schema.parse(text)) }
        }
        let long = String(repeating: "x", count: 97)
        #expect(throws: OptionError.self) {
            try VsockOptions(VsockOptions.schema.parse("3,path=\(long)"))
        }
    }
}
