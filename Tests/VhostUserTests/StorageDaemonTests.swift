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

    let image: String
    let socket: String
    private var process: ChildProcess?

    init(size: Int) throws {
        let name = "/tmp/apus-qsd-\(getpid())-\(UInt64.random(in: 0...UInt64.max))"
        image = name + ".raw"
        socket = name + ".sock"
        let fd = unsafe clinux_open(image, O_CREAT | O_RDWR, 0o600)
        ftruncate(fd, size)
        close(fd)
    }

    deinit {
        kill()
        unsafe unlink(image)
        unsafe unlink(socket)
    }

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

    func kill() {
        guard let process else { return }
        process.signal(SIGKILL)
        while process.reap() == nil { Clock.sleep(milliseconds: 1) }
        self.process = nil
        // It does not take over a socket that is left behind.
        unsafe unlink(socket)
    }

    func contents(offset: Int, count: Int) -> [UInt8] {
        let fd = unsafe clinux_open(image, O_RDONLY, 0)
        defer { close(fd) }
        var bytes = [UInt8](repeating: 0, count: count)
        _ = unsafe pread(fd, &bytes, count, offset)
        return bytes
    }
}

@Suite("A front end with QEMU's storage daemon", .enabled(if: StorageDaemon.isInstalled))
struct StorageDaemonTests {
    private static let features =
        VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors

    @Test("reads and writes through two queues, and outlives the daemon")
    func readAndWrite() throws {
        let daemon = try StorageDaemon(size: 16 << 20)
        try daemon.start()
        let loop = try EventLoop()
        let frontend = Frontend(
            FrontendOptions(.connect(path: daemon.socket), deviceID: .block), on: loop)
        defer { frontend.close() }
        try frontend.connect()
        #expect(frontend.queueCount == 2)
        #expect(frontend.features & Self.features == Self.features)
        #expect(frontend.readConfig(offset: 0, count: 8) == bytes(32768 as UInt64))

        let scratch = try ScratchMemory(size: 4 << 20)
        let drivers = try (0..<2).map { _ in try BlockDriver(scratch, features: Self.features) }
        try frontend.setFeatures(Self.features)
        for (index, driver) in drivers.enumerated() {
            try frontend.startQueue(index, driver.setup)
        }
        for round in 0..<4 as Range<UInt64> {
            for (index, driver) in drivers.enumerated() {
                let sector = round * 100 + UInt64(index) * 1000
                let contents = (0..<4096).map {
                    UInt8(truncatingIfNeeded: UInt64($0) &* 7 &+ sector)
                }
                driver.write(contents, sector: sector)
                // The first of them has an answer; the others are sent while there is nobody.
                if round == 0 { #expect(try driver.finishes(loop)) }
            }
            if round == 1 {
                daemon.kill()
                let isLost = loop.run { frontend.state != .connected }
                #expect(isLost)
            }
        }
        try daemon.start()
        let isBack = loop.run { frontend.state == .connected }
        #expect(isBack)
        for (index, driver) in drivers.enumerated() {
            #expect(try driver.finishes(loop))
            for round in 0..<4 as Range<UInt64> {
                let sector = round * 100 + UInt64(index) * 1000
                let contents = (0..<4096).map {
                    UInt8(truncatingIfNeeded: UInt64($0) &* 7 &+ sector)
                }
                let buffer = driver.read(4096, sector: sector)
                #expect(try driver.finishes(loop))
                #expect(scratch.bytes(buffer) == contents)
                #expect(daemon.contents(offset: Int(sector) * 512, count: 4096) == contents)
            }
        }
    }

    @Test("stops and starts queues, and resets the device")
    func stopAndReset() throws {
        let daemon = try StorageDaemon(size: 1 << 20)
        try daemon.start()
        let loop = try EventLoop()
        let frontend = Frontend(
            FrontendOptions(.connect(path: daemon.socket), deviceID: .block), on: loop)
        defer { frontend.close() }
        try frontend.connect()
        let scratch = try ScratchMemory(size: 1 << 20)
        for _ in 0..<3 {
            let driver = try BlockDriver(scratch, features: Self.features)
            try frontend.setFeatures(Self.features)
            try frontend.startQueue(0, driver.setup)
            for sector in 0..<5 as Range<UInt64> {
                driver.write([UInt8](repeating: UInt8(sector), count: 512), sector: sector)
            }
            #expect(try driver.finishes(loop))
            let state = frontend.stopQueue(0)
            #expect(state == driver.queue.state)
            var setup = driver.setup
            setup.state = state
            try frontend.startQueue(0, setup)
            let buffer = driver.read(512, sector: 4)
            #expect(try driver.finishes(loop))
            #expect(scratch.bytes(buffer) == [UInt8](repeating: 4, count: 512))
            frontend.reset()
        }
        #expect(frontend.state == .connected)
    }
}
