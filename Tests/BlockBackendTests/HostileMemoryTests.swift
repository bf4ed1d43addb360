import CLinux
import Core
import Glibc
import TestSupport
import Testing

/// `apus-block` in a process of its own, which listens for front ends.
private final class ServingProcess {
    let image: ScratchImage
    private let socket: String
    private let messages: String
    private let process: ChildProcess

    init(_ options: String) throws {
        image = try ScratchImage(pattern(1 << 20))
        socket = image.folder["socket"]
        messages = image.folder["log"]
        process = try ChildProcess(
            path: "/bin/sh",
            arguments: [
                "sh", "-c", "exec \"$@\" 2>\"$0\"", messages, BuiltExecutable.path ?? "", "block",
                "--socket-path", socket, "--disk", "path=\(image.path),\(options)",
            ],
            environment: [])
    }

    deinit { process.kill() }

    func connect() throws -> VhostUserClient { try VhostUserClient(path: socket) }

    /// What ended it; `nil` if nothing has.
    var status: ChildStatus? { process.reap() }

    /// What it has written to standard error.
    var complaints: String {
        String(decoding: (try? readFile(messages)) ?? [], as: UTF8.self)
    }
}

/// A front end that can make the files shorter that it shares. Rings, headers and status bytes are
/// in the first half of its memory, data in the second.
private final class ShrinkingFrontend {
    static let size = 4 << 20
    static let half = size / 2
    private static let depth = 32
    private static let dataSize = 16384

    let client: VhostUserClient
    let memory: SharedFD
    private let scratch: ScratchMemory
    private let driver: DriverQueue
    private let kick = try? EventFD()
    private let call = try? EventFD()
    private var requests: [(header: DriverBuffer, data: DriverBuffer, status: DriverBuffer)] = []

    /// - Parameter prepare: may say more to the back end before the queue starts.
    init(
        _ process: ServingProcess, prepare: (VhostUserClient) throws -> Void = { _ in }
    ) throws {
        client = try process.connect()
        memory = try Self.makeFile(Self.size)
        let mapping = try MemoryMapping(sharing: memory.rawValue, size: Self.size)
        let region = try #require(
            GuestRegion(
                start: GuestAddress(1 << 20), size: UInt64(Self.size), mapping: mapping,
                file: memory))
        scratch = ScratchMemory(try GuestMemory([region]))
        let logAll: UInt64 = 1 << 26
        try client.negotiate(
            VirtioFeature.version1 | logAll,
            protocolFeatures: VhostUserClient.usualProtocolFeatures
                | VhostUserClient.logProtocolFeature | VhostUserClient.inflightProtocolFeature)
        driver = DriverQueue(scratch, size: 128, features: VirtioFeature.version1)
        try client.share(scratch.memory)
        try prepare(client)
        let start = GuestAddress(UInt64(1 << 20 + Self.half))
        for i in 0..<Self.depth {
            let offset = UInt64(i * Self.dataSize)
            requests.append(
                (
                    scratch.buffer(16),
                    DriverBuffer(
                        GuestAddress(start.rawValue + offset), UInt32(Self.dataSize)),
                    scratch.buffer(1)
                ))
        }
        try client.start(
            0, driver, kick: try #require(kick), call: try #require(call))
        // With the answer, all that was said before is known to have been taken in.
        try client.send(.getFeatures, hasReply: true)
    }

    /// A file in memory that can be made shorter.
    static func makeFile(_ size: Int) throws -> SharedFD {
        let fd = SharedFD(
            owning: try checking("memfd_create", unsafe clinux_memfd_create("victim", 0)))
        _ = try checking("ftruncate", ftruncate(fd.rawValue, size))
        return fd
    }

    /// Puts a batch of requests into the ring.
    func submit(_ type: UInt32 = Wire.read) throws {
        for (index, request) in requests.enumerated() {
            let sector = UInt64(index * Self.dataSize / 512)
            try scratch.memory.write(request.header.address, Wire.header(type, sector: sector))
            try scratch.memory.write(request.status.address, Wire.untouched)
            driver.add(
                readable: [request.header], writable: [request.data, request.status],
                token: UInt64(index))
        }
        _ = driver.publish()
        wake()
    }

    /// Makes the back end look at the ring.
    func wake() { kick?.signal() }

    /// Waits for the batch.
    /// - Returns: the status bytes.
    func finish() throws -> [UInt8] {
        let deadline = Clock.monotonic() + 20_000_000_000
        var count = 0
        while count < requests.count {
            guard Clock.monotonic() < deadline else {
                throw VhostUserClient.Failure("\(count) answers only")
            }
            while try driver.popUsed() != nil { count += 1 }
            usleep(200)
        }
        return requests.map { scratch.bytes($0.status)[0] }
    }

    /// Waits until the back end has closed the connection.
    func isClosed() -> Bool {
        for _ in 0..<1000 {
            do { try client.send(.getFeatures, hasReply: true) } catch { return true }
            usleep(10_000)
        }
        return false
    }
}

@Suite("A front end that takes memory away", .enabled(if: BuiltExecutable.path != nil))
struct HostileMemoryTests {
    private static let engines = [
        "engine=auto", "engine=threads", "engine=threads,direct=on", "engine=aio,direct=on",
    ]

    private func expectServed(_ process: ServingProcess) throws {
        let next = try ShrinkingFrontend(process)
        try next.submit()
        #expect(try next.finish().allSatisfy { $0 == Wire.ok })
        #expect(process.status == nil)
    }

    @Test("gets I/O errors where buffers are gone", arguments: engines)
    func buffers(engine: String) throws {
        let process = try ServingProcess(engine)
        try expectErrors(ShrinkingFrontend(process))
        try expectServed(process)
    }

    private func expectErrors(_ frontend: ShrinkingFrontend) throws {
        try frontend.submit()
        ftruncate(frontend.memory.rawValue, ShrinkingFrontend.half)
        #expect(try frontend.finish().allSatisfy { $0 == Wire.ok || $0 == Wire.ioError })
        try frontend.submit()
        #expect(try frontend.finish().allSatisfy { $0 == Wire.ioError })
        // The connection has survived.
        ftruncate(frontend.memory.rawValue, ShrinkingFrontend.size)
        try frontend.submit()
        #expect(try frontend.finish().allSatisfy { $0 == Wire.ok })
    }

    @Test("loses its connection when the rings are gone", arguments: engines)
    func rings(engine: String) throws {
        let process = try ServingProcess(engine)
        for _ in 0..<5 {
            let frontend = try ShrinkingFrontend(process)
            try frontend.submit()
            // The back end is at work now, or soon will be.
            usleep(UInt32.random(in: 0...500))
            ftruncate(frontend.memory.rawValue, 0)
            frontend.wake()
            #expect(frontend.isClosed())
        }
        #expect(
            process.complaints.contains("the front end's memory file is shorter than its region"))
        try expectServed(process)
    }

    @Test("loses its connection when the device itself writes to what is gone")
    func identify() throws {
        let process = try ServingProcess("serial=x")
        let frontend = try ShrinkingFrontend(process)
        ftruncate(frontend.memory.rawValue, ShrinkingFrontend.half)
        try frontend.submit(Wire.identify)
        #expect(frontend.isClosed())
        #expect(
            process.complaints.contains(
                "SET_MEM_TABLE: region size: the front end's memory file is shorter"))
        try expectServed(process)
    }

    @Test("loses its connection when the area for what is in flight is gone")
    func inflight() throws {
        let process = try ServingProcess("serial=x")
        let file = try ShrinkingFrontend.makeFile(1 << 16)
        let frontend = try ShrinkingFrontend(process) { client in
            let words = littleEndian(1 << 16 as UInt64) + [UInt8](repeating: 0, count: 8)
            try client.send(.setInflight, words + [1, 0, 128, 0], fds: [file])
        }
        ftruncate(file.rawValue, 0)
        try frontend.submit()
        #expect(frontend.isClosed())
        #expect(process.complaints.contains("SET_INFLIGHT_FD: mmap size"))
        try expectServed(process)
    }

    @Test("loses its connection when the dirty log is gone")
    func log() throws {
        let process = try ServingProcess("serial=x")
        let file = try ShrinkingFrontend.makeFile(4096)
        let frontend = try ShrinkingFrontend(process) { client in
            let payload =
                littleEndian(4096 as UInt64) + [UInt8](repeating: 0, count: 8)
            try client.send(.setLogBase, payload, fds: [file], hasReply: true)
        }
        ftruncate(file.rawValue, 0)
        try frontend.submit()
        #expect(frontend.isClosed())
        #expect(process.complaints.contains("SET_LOG_BASE: log size"))
        try expectServed(process)
    }

    @Test("is refused with a file that is too short from the start")
    func tooShort() throws {
        let process = try ServingProcess("serial=x")
        let client = try process.connect()
        try client.negotiate(VirtioFeature.version1)
        let file = try ShrinkingFrontend.makeFile(4096)
        let payload = [1, 0, 8192, 0, 0].map { littleEndian(UInt64($0)) }.flatMap { $0 }
        try client.send(.setMemoryTable, payload, fds: [file])
        #expect(throws: (any Error).self) { try client.send(.getFeatures, hasReply: true) }
        #expect(
            process.complaints.contains(
                "SET_MEM_TABLE: region size: the front end's memory file is shorter than its region"
            ))
        try expectServed(process)
    }
}
