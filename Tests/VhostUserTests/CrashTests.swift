import CLinux
import Core
import Glibc
import TestSupport
import Testing
import VhostUser

/// The block back end in a process that is killed again and again.
private final class MortalProcess {
    private let folder: TestFolder
    private let image: String
    private let engine: String
    private var process: ChildProcess?

    init(size: Int, engine: String) throws {
        self.engine = engine
        folder = try TestFolder()
        image = try folder.sparse("image", size: UInt64(size))
    }

    deinit { kill() }

    /// - Returns: our end of its connection.
    func start() throws -> UnixSocket {
        let (near, far) = try UnixSocket.pair()
        process = try ChildProcess(
            path: BuiltExecutable.path ?? "",
            arguments: [
                "apus-block", "--fd=3", "--disk", "path=\(image),engine=\(engine)", "--log-level",
                "error",
            ],
            environment: [], descriptors: [(far.fd, 3)])
        return near
    }

    /// Starts it again, as a supervisor does: the kernel may hold a killed process's lock on the
    /// image until its last I/O has ended, for longer than the new process waits on a loaded
    /// machine.
    func restart(under frontend: Frontend) throws {
        for attempt in (1...) {
            do {
                return try frontend.attach(try start())
            } catch  where attempt < 10 {
                kill()
            }
        }
    }

    func kill() {
        guard let process else { return }
        process.kill()
        self.process = nil
    }

    /// 4096 bytes of the image.
    func bytes(at sector: UInt64) throws -> [UInt8] {
        try readFile(image, offset: Int(sector) * 512, count: 4096)
    }
}

@Suite("A block back end that is killed", .enabled(if: BuiltExecutable.path != nil))
struct CrashTests {
    @Test(
        "loses no request and finishes none twice, a hundred times",
        .timeLimit(.minutes(10)), arguments: [0, VirtioFeature.packedRing] as [UInt64],
        ["auto", "threads"])
    func torture(ringFeature: UInt64, engine: String) throws {
        let process = try MortalProcess(size: 8 << 20, engine: engine)
        let loop = try EventLoop()
        let frontend = Frontend(FrontendOptions(.supervised, deviceID: .block), on: loop)
        defer { frontend.close() }
        try frontend.attach(try process.start())
        let features =
            VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors
            | ringFeature
        let scratch = try ScratchMemory(size: 128 << 20)
        let driver = try BlockDriver(scratch, features: features, size: 32)
        try frontend.setFeatures(features)
        try frontend.startQueue(0, driver.setup)

        let disk = BusyDisk(driver)
        var killsDuringIO = 0
        var rounds = 0
        // A fast process may have done all before it is killed: it then has less and less time.
        while rounds < 100 || killsDuringIO <= 20 {
            try #require(rounds < 1000, "killed during I/O only \(killsDuringIO) times")
            disk.writeSome()
            usleep(UInt32.random(in: 0...1500 >> UInt32(rounds / 100)))
            rounds += 1
            try driver.collect()
            if driver.openCount > 0 { killsDuringIO += 1 }
            process.kill()
            let isLost = loop.run { frontend.state != .connected }
            #expect(isLost)
            try process.restart(under: frontend)
        }
        #expect(try driver.finishes(loop))
        #expect(driver.queue.freeCount == 32)
        for (sector, value) in disk.written {
            #expect(try process.bytes(at: sector) == [UInt8](repeating: value, count: 4096))
        }
    }
}

/// Writes to a few places again and again, so that a write that is done once more, after a later
/// one to its place, is seen.
private final class BusyDisk {
    private let driver: BlockDriver
    private let sectors = (0..<40).map { UInt64($0) * 8 }
    private var value: UInt8 = 0
    /// What is in each place once all is finished.
    private(set) var written: [UInt64: UInt8] = [:]

    init(_ driver: BlockDriver) { self.driver = driver }

    /// Sends up to twenty writes.
    func writeSome() {
        for _ in 0..<Int.random(in: 1...20) where driver.openCount < 30 {
            // One write under way to each place at most, so that the last one counts.
            let sector = sectors.filter { !driver.isWriting($0) }.randomElement()
            guard let sector else { return }
            value = value % 255 + 1
            written[sector] = value
            driver.write([UInt8](repeating: value, count: 4096), sector: sector)
        }
    }
}
