import Core
import TestSupport
import Testing

@testable import VhostUser

@Suite("A back end that asks its front end")
struct BackendChannelTests {
    private let far: UnixSocket
    private let channel: BackendChannel
    private let file: SharedFD

    init() throws {
        let (near, far) = try UnixSocket.pair()
        self.far = far
        channel = BackendChannel(near)
        file = SharedFD(try MemFD(name: "shared", size: 4096).fd.duplicate())
    }

    private static let piece = SharedMemoryPiece(region: 0, offset: 0, size: 4096)

    private func reply(_ result: UInt64, to request: UInt32 = 9) -> [UInt8] {
        packet(request, flags: 5, littleEndian(result))
    }

    @Test("takes the answer, and understands a refusal")
    func answers() throws {
        try far.send(reply(0))
        try channel.map(Self.piece, of: file)
        let sent = try #require(try far.receive(upTo: 4096))
        #expect(sent.fds.count == 1)
        #expect(
            sent.bytes
                == packet(
                    9, flags: 9,
                    littleEndian(0 as UInt64, 0) + littleEndian(0, 4096 as UInt64)
                        + littleEndian(0 as UInt64)))
        try far.send(reply(1, to: 10))
        #expect(throws: SharedMemoryError.refused) { try channel.unmap(Self.piece) }
        try far.send(reply(0))
        try channel.map(Self.piece, of: file)
    }

    @Test(
        "uses a channel no more on which something else comes",
        arguments: [
            packet(10, flags: 5, littleEndian(0 as UInt64)),
            packet(9, flags: 1, littleEndian(0 as UInt64)),
            packet(9, flags: 5, littleEndian(0 as UInt32)), packet(9, flags: 5),
            [UInt8](repeating: 0xff, count: 40),
        ])
    func nonsense(bytes: [UInt8]) throws {
        try far.send(bytes + reply(0))
        #expect(throws: SharedMemoryError.gone) { try channel.map(Self.piece, of: file) }
        try far.send(reply(0))
        #expect(throws: SharedMemoryError.gone) { try channel.map(Self.piece, of: file) }
    }

    @Test("waits no more once the channel is closed, by whomever", arguments: [true, false])
    func closing(isOwn: Bool) throws {
        let (channel, far) = (channel, far)
        let thread = try Thread(name: "test-closing") {
            Clock.sleep(milliseconds: 50)
            isOwn ? channel.close() : far.shutDown()
        }
        let start = Clock.monotonic()
        #expect(throws: SharedMemoryError.gone) { try channel.map(Self.piece, of: file) }
        #expect((Clock.monotonic() - start) / 1_000_000 < 3000)
        thread.join()
    }
}
