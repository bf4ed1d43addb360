import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@testable import VhostUser

@Suite("Memory that a device shares with its driver")
struct SharedMemoryTests {
    private static let size: UInt64 = 4 << 20
    private let pairing: Pairing
    private let file: SharedFD

    init() throws {
        pairing = try Pairing(sharesMemory: true) { $0.sharedRegions = [Self.size, 0, 0x2000] }
        file = try Self.file(1)
    }

    /// Four pages that begin with a number, and the following ones.
    private static func file(_ first: UInt8) throws -> SharedFD {
        let file = try MemFD(name: "shared", size: 0x4000)
        for page in 0..<4 {
            var byte = first + UInt8(page)
            #expect(unsafe pwrite(file.fd.rawValue, &byte, 1, page * 0x1000) == 1)
        }
        return SharedFD(try file.fd.duplicate())
    }

    private func byte(_ offset: Int) throws -> UInt8 {
        let window = try #require(pairing.frontend.window)
        return unsafe window.memory.base.load(fromByteOffset: offset, as: UInt8.self)
    }

    /// Asks the front end on a thread of the device's.
    private func ask(
        _ body: @escaping @Sendable (any SharedMemoryChannel) throws(SharedMemoryError) -> Void
    ) throws -> SharedMemoryError? {
        let found = Mutex<(any SharedMemoryChannel)?>(nil)
        pairing.backend.perform { backend in found.withLock { $0 = backend.device.channel } }
        let channel = try #require(found.withLock { $0 })
        let outcome = Outcome()
        let loop = pairing.loop
        let thread = try Thread(name: "test-asking") {
            defer { loop.post {} }
            do throws(SharedMemoryError) {
                try body(channel)
                outcome.set(nil)
            } catch {
                outcome.set(error)
            }
        }
        let isDone = pairing.loop.run { outcome.isSet }
        #expect(isDone)
        thread.join()
        return outcome.error
    }

    private final class Outcome: Sendable {
        private let state = Mutex<(Bool, SharedMemoryError?)>((false, nil))
        func set(_ error: SharedMemoryError?) { state.withLock { $0 = (true, error) } }
        var isSet: Bool { state.withLock { $0.0 } }
        var error: SharedMemoryError? { state.withLock { $0.1 } }
    }

    private static func piece(
        _ offset: UInt64, _ size: UInt64, region: UInt8 = 0, from fileOffset: UInt64 = 0,
        isWritable: Bool = true
    ) -> SharedMemoryPiece {
        SharedMemoryPiece(
            region: region, offset: offset, size: size, fileOffset: fileOffset,
            isWritable: isWritable)
    }

    @Test("the regions are those of the device")
    func regions() throws {
        let window = try #require(pairing.frontend.window)
        #expect(window.regions.map(\.id) == [0, 2])
        #expect(window.regions.map(\.size) == [Self.size, 0x2000])
    }

    @Test("a device's thread shows a file there, and takes it away")
    func mapping() throws {
        let file = file
        #expect(
            try ask { c throws(SharedMemoryError) in
                try c.map(Self.piece(0x10000, 0x2000, from: 0x1000), of: file)
            } == nil)
        #expect(try byte(0x10000) == 2)
        #expect(try byte(0x11000) == 3)
        #expect(
            try ask { c throws(SharedMemoryError) in
                try c.map(Self.piece(0, 0x1000, region: 2), of: file)
            } == nil)
        #expect(try byte(Int(Self.size)) == 1)
        #expect(
            try ask { c throws(SharedMemoryError) in
                try c.unmap(Self.piece(0x10000, 0x1000))
            } == nil)
        #expect(try byte(0x10000) == 0)
        #expect(try byte(0x11000) == 3)
    }

    @Test(
        "what makes no sense is refused, and the connection goes on",
        arguments: [
            piece(0, 0x1000, region: 1), piece(0, 0x1000, region: 3),
            piece(0, 0x1000, region: 255), piece(0, 0),
            piece(0x800, 0x1000), piece(0, 0x1800), piece(size, 0x1000),
            piece(size - 0x1000, 0x2000), piece(0x1000, 0x2000, region: 2),
            piece(UInt64.max - 0xFFF, 0x1000), piece(0x1000, UInt64.max - 0xFFF),
            piece(0, 0x1000, from: 0x10), piece(0, 0x1000, from: UInt64.max - 0xFFF),
            piece(0, 0x1000, from: 1 << 63),
        ])
    func refusals(piece: SharedMemoryPiece) throws {
        let file = file
        #expect(
            try ask { c throws(SharedMemoryError) in try c.map(piece, of: file) } == .refused)
        #expect(pairing.frontend.window?.memory.pieceCount == 0)
        #expect(pairing.frontend.state == .connected)
        #expect(
            try ask { c throws(SharedMemoryError) in
                try c.map(Self.piece(0, 0x1000), of: file)
            } == nil)
    }

    @Test("what is mapped stays when a back end is lost, and the next one maps over it")
    func loss() throws {
        try pairing.start()
        let (file, other) = (file, try Self.file(50))
        #expect(
            try ask { c throws(SharedMemoryError) in
                try c.map(Self.piece(0, 0x4000), of: file)
            } == nil)
        pairing.loseBackend()
        #expect(try byte(0x1000) == 2)
        try pairing.attachNewBackend { $0.sharedRegions = [Self.size, 0, 0x2000] }
        #expect(try byte(0x1000) == 2)
        #expect(
            try ask { c throws(SharedMemoryError) in
                try c.map(Self.piece(0x1000, 0x1000), of: other)
            } == nil)
        #expect(try byte(0x1000) == 50)
        #expect(try byte(0x2000) == 3)
    }

    @Test("the driver's reset empties it")
    func reset() throws {
        try pairing.start()
        let file = file
        #expect(
            try ask { c throws(SharedMemoryError) in
                try c.map(Self.piece(0, 0x4000), of: file)
            } == nil)
        pairing.frontend.reset()
        #expect(try byte(0x1000) == 0)
        #expect(pairing.frontend.window?.memory.pieceCount == 0)
    }

    @Test(
        "a back end with other regions does not take over", arguments: [[], [size], [size, 4096]])
    func otherRegions(sizes: [UInt64]) throws {
        pairing.loseBackend()
        #expect(throws: FrontendError.self) {
            try pairing.attachNewBackend { $0.sharedRegions = sizes }
        }
    }

    @Test("a device that asks while its queue is being stopped gets its answer")
    func whileStopping() throws {
        try pairing.start()
        let file = file
        let isDone = Atomic<Bool>(false)
        pairing.backend.perform { backend in
            let device = backend.device
            device.onStop = { [unowned device] in
                do {
                    try device.channel?.map(Self.piece(0, 0x1000), of: file)
                    isDone.store(true, ordering: .relaxed)
                } catch {}
            }
        }
        pairing.send()
        let isServed = try pairing.finishes()
        #expect(isServed)
        _ = pairing.frontend.stopQueue(0)
        let wasMapped = isDone.load(ordering: .relaxed)
        #expect(wasMapped)
        #expect(try byte(0) == 1)
        #expect(pairing.frontend.state == .connected)
    }

    @Test("there is none if either end does not want it")
    func notNegotiated() throws {
        for (pairing, name) in [
            (try Pairing { $0.sharedRegions = [Self.size] }, "front end"),
            (try Pairing(sharesMemory: true), "device"),
            (
                try Pairing(hidden: .replyAck, sharesMemory: true) {
                    $0.sharedRegions = [Self.size]
                },
                "replies"
            ),
        ] {
            #expect(pairing.frontend.window == nil, "\(name)")
            let hasChannel = Atomic<Bool>(true)
            pairing.backend.perform {
                hasChannel.store($0.device.channel != nil, ordering: .relaxed)
            }
            let isShared = hasChannel.load(ordering: .relaxed)
            #expect(!isShared, "\(name)")
        }
    }
}
