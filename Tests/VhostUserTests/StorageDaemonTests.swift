import CLinux
import Core
import Glibc
import TestSupport
import Testing
import VhostUser

/// QEMU's storage daemon with a disk in a file, on a socket.
private final class StorageDaemon {
    static let path = "/usr/bin/qemu-storage-daemon"
    static var isInstalled: Bool { unsafe access(path, X_OK) == 0 }

    private let folder: TestFolder
    private let image: String
    let socket: String
    private var process: ChildProcess?

    init(size: Int) throws {
        folder = try TestFolder()
        image = try folder.sparse("image", size: UInt64(size))
        socket = folder["socket"]
    }

    deinit { kill() }

    func start() throws {
        process = try ChildProcess(
            path: Self.path,
            arguments: [
                "qemu-storage-daemon", "--blockdev",
                "driver=file,node-name=f0,filename=\(image),locking=off", "--export",
                "type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path=\(socket),"
                    + "writable=on,num-queues=2",
            ], environment: [])
    }

    var hasEnded: Bool { process?.wait(milliseconds: 0) != nil }

    func kill() {
        guard let process else { return }
        process.kill()
        self.process = nil
        // It does not take over a socket that is left behind.
        unsafe unlink(socket)
    }

    func contents(offset: Int, count: Int) throws -> [UInt8] {
        try readFile(image, offset: offset, count: count)
    }
}

/// A daemon and a front end that is connected to it.
private final class DaemonRig {
    static let features =
        VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors

    let daemon: StorageDaemon
    let loop: EventLoop
    let frontend: Frontend
    let scratch: ScratchMemory

    init(size: Int) throws {
        daemon = try StorageDaemon(size: size)
        try daemon.start()
        loop = try EventLoop()
        frontend = Frontend(
            FrontendOptions(.connect(path: daemon.socket), deviceID: .block), on: loop)
        scratch = try ScratchMemory(size: 4 << 20)
        // It may have to load its libraries from a slow disk.
        let deadline = Clock.monotonic() + 60_000_000_000
        while true {
            do {
                try frontend.connect(timeoutMilliseconds: 1000)
                break
            } catch {
                if daemon.hasEnded || Clock.monotonic() > deadline { throw error }
            }
        }
    }

    deinit { frontend.close() }

    /// A driver with a ring of its own for a queue that then runs.
    func start(_ queue: Int) throws -> BlockDriver {
        let driver = try BlockDriver(scratch, features: Self.features)
        try frontend.startQueue(queue, driver.setup)
        return driver
    }
}

@Suite("A front end with QEMU's storage daemon", .enabled(if: StorageDaemon.isInstalled))
struct StorageDaemonTests {
    /// Where a round of one queue writes, and what.
    private func place(_ round: UInt64, _ queue: Int) -> (sector: UInt64, contents: [UInt8]) {
        let sector = round * 100 + UInt64(queue) * 1000
        return (sector, (0..<4096).map { UInt8(truncatingIfNeeded: UInt64($0) &* 7 &+ sector) })
    }

    @Test("reads and writes through two queues, and outlives the daemon")
    func readAndWrite() throws {
        let rig = try DaemonRig(size: 16 << 20)
        #expect(rig.frontend.queueCount == 2)
        #expect(rig.frontend.features & DaemonRig.features == DaemonRig.features)
        #expect(rig.frontend.readConfig(offset: 0, count: 8) == littleEndian(32768 as UInt64))

        try rig.frontend.setFeatures(DaemonRig.features)
        let drivers = try (0..<2).map { try rig.start($0) }
        for round in 0..<4 as Range<UInt64> {
            for (index, driver) in drivers.enumerated() {
                let (sector, contents) = place(round, index)
                driver.write(contents, sector: sector)
                // The first of them has an answer; the others are sent while there is nobody.
                if round == 0 { #expect(try driver.finishes(rig.loop)) }
            }
            if round == 1 {
                rig.daemon.kill()
                let isLost = rig.loop.run { rig.frontend.state != .connected }
                #expect(isLost)
            }
        }
        try rig.daemon.start()
        let isBack = rig.loop.run { rig.frontend.state == .connected }
        #expect(isBack)
        for (index, driver) in drivers.enumerated() {
            #expect(try driver.finishes(rig.loop))
            for round in 0..<4 as Range<UInt64> {
                let (sector, contents) = place(round, index)
                let buffer = driver.read(4096, sector: sector)
                #expect(try driver.finishes(rig.loop))
                #expect(rig.scratch.bytes(buffer) == contents)
                #expect(try rig.daemon.contents(offset: Int(sector) * 512, count: 4096) == contents)
            }
        }
    }

    @Test("stops and starts queues, and resets the device")
    func stopAndReset() throws {
        let rig = try DaemonRig(size: 1 << 20)
        for _ in 0..<3 {
            try rig.frontend.setFeatures(DaemonRig.features)
            let driver = try rig.start(0)
            for sector in 0..<5 as Range<UInt64> {
                driver.write([UInt8](repeating: UInt8(sector), count: 512), sector: sector)
            }
            #expect(try driver.finishes(rig.loop))
            let state = rig.frontend.stopQueue(0)
            #expect(state == driver.queue.state)
            var setup = driver.setup
            setup.state = state
            try rig.frontend.startQueue(0, setup)
            let buffer = driver.read(512, sector: 4)
            #expect(try driver.finishes(rig.loop))
            #expect(rig.scratch.bytes(buffer) == [UInt8](repeating: 4, count: 512))
            rig.frontend.reset()
        }
        #expect(rig.frontend.state == .connected)
    }
}
