import Core
import Glibc
import TestSupport
import Testing

/// `apus-block` behind an IOMMU, which the test plays: it knows addresses that are not the guest's, and
/// tells of them page by page.
private final class TranslatedDisk {
    /// What the driver's addresses differ from the guest's by.
    static let shift: UInt64 = 0x40_0000_0000
    static let page: UInt64 = 4096

    let folder: TestFolder
    let client: VhostUserClient
    let scratch: ScratchMemory
    let driver: DriverQueue
    let kick: EventFD
    let call: EventFD
    private let process: ChildProcess
    private let channel: VhostUserClient
    /// Pages that are not translated.
    var hidden: Set<UInt64> = []
    /// What may be done with the others.
    var permissions: UInt8 = 3
    private(set) var missCount = 0
    /// Where the last data were read to.
    private(set) var lastData: DriverBuffer?

    init(_ contents: [UInt8], ring: UInt64) throws {
        folder = try TestFolder()
        let image = try folder.file("image", contents)
        let (near, far) = try UnixSocket.pair()
        process = try ChildProcess(
            path: BuiltExecutable.path ?? "",
            arguments: [
                "apus", "block", "--fd=3", "--disk", "path=\(image)", "--log-level", "error",
            ], environment: [], descriptors: [(far.fd, 3)])
        client = try VhostUserClient(adopting: near.fd)
        let features =
            VirtioFeature.version1 | VirtioFeature.accessPlatform
            | VirtioFeature.indirectDescriptors | ring
        // MQ, REPLY_ACK, BACKEND_REQ.
        try client.negotiateProtocol(1 << 0 | 1 << 3 | 1 << 5)
        let (mine, theirs) = try UnixSocket.pair()
        channel = try VhostUserClient(adopting: mine.fd)
        try client.send(.setBackendChannel, fds: [theirs.fd])
        try client.own(features)
        try #require(client.features & features == features)
        scratch = try ScratchMemory(size: 4 << 20)
        client.userOffset = 0x7000_0000_0000
        try client.share(scratch.memory)
        driver = DriverQueue(scratch, size: 16, features: features, tableSize: 8)
        (kick, call) = try (EventFD(), EventFD())
    }

    deinit { process.kill() }

    /// Ring addresses are the driver's as well.
    func start() throws {
        client.userOffset = Self.shift
        try client.start(0, driver, kick: kick, call: call)
    }

    /// Answers what the back end asks for.
    func translate() throws {
        while channel.socket.waitReadable(timeoutMilliseconds: 0) {
            let message = try channel.receiveMessage()
            try #require(message.request == 1 && message.payload.count >= 26)
            let address = VhostUserClient.value(message.payload, 0, UInt64.self)
            #expect(message.payload[25] == 1)
            missCount += 1
            try tell(address & ~(Self.page - 1))
        }
    }

    private func tell(_ page: UInt64) throws {
        guard page >= Self.shift, !hidden.contains(page - Self.shift) else { return }
        let user = page - Self.shift + 0x7000_0000_0000
        let answer = try client.send(
            .iotlb, littleEndian(page, Self.page, user) + [permissions, 2] + Self.padding,
            hasReply: true)
        #expect(answer == littleEndian(0 as UInt64))
    }

    func invalidate(_ address: UInt64, _ size: UInt64) throws {
        let answer = try client.send(
            // The permissions are what was there, as QEMU does it.
            .iotlb, littleEndian(address, size, 0 as UInt64) + [8, 3] + Self.padding,
            hasReply: true)
        #expect(answer == littleEndian(0 as UInt64))
    }

    private static let padding = [UInt8](repeating: 0, count: 6)

    func shifted(_ buffer: DriverBuffer) -> DriverBuffer {
        DriverBuffer(GuestAddress(buffer.address.rawValue + Self.shift), buffer.length)
    }

    /// Reads sectors.
    /// - Returns: the status and the data; `nil` if nothing comes back in time.
    func read(
        _ sector: UInt64, _ count: Int, style: DescriptorStyle = .direct,
        milliseconds: UInt64 = 5000
    ) throws -> (status: UInt8, data: [UInt8])? {
        let data = scratch.buffer(count)
        lastData = data
        let status = scratch.place([0xff])
        let header = scratch.place(littleEndian(0, 0 as UInt32) + littleEndian(sector))
        driver.add(
            readable: [shifted(header)], writable: [shifted(data), shifted(status)], style: style)
        if driver.publish() { kick.signal() }
        let deadline = Clock.monotonic() + milliseconds * 1_000_000
        while Clock.monotonic() < deadline {
            try translate()
            if try driver.popUsed() != nil {
                return (scratch.bytes(status)[0], scratch.bytes(data))
            }
            usleep(200)
        }
        return nil
    }
}

@Suite("A device behind an IOMMU", .enabled(if: BuiltExecutable.path != nil))
struct IOTLBTests {
    private static let contents = (0..<(1 << 20)).map {
        UInt8(truncatingIfNeeded: $0 &* 31 ^ $0 >> 8)
    }

    @Test(
        "reads to addresses that it asks for", arguments: [0, VirtioFeature.packedRing] as [UInt64])
    func read(ring: UInt64) throws {
        let disk = try TranslatedDisk(Self.contents, ring: ring)
        try disk.start()
        for sector in [0, 100, 1000] as [UInt64] {
            // Several pages, which need not lie side by side.
            let found = try disk.read(sector, 20_480)
            #expect(found?.status == 0)
            let start = Int(sector) * 512
            #expect(found?.data == Array(Self.contents[start..<start + 20_480]))
        }
        #expect(disk.missCount > 6)
        // What is known is not asked for again, and what was forgotten is.
        try disk.invalidate(0, .max)
        let before = disk.missCount
        #expect(try disk.read(7, 512)?.status == 0)
        #expect(disk.missCount > before)
        // A driver that comes after this one has addresses of its own.
        try disk.client.stop(0)
        let last = disk.missCount
        try disk.start()
        #expect(try disk.read(9, 512)?.status == 0)
        #expect(disk.missCount > last)
    }

    @Test("does not use addresses that nobody gives it, and goes on when it is stopped")
    func hidden() throws {
        let disk = try TranslatedDisk(Self.contents, ring: 0)
        try disk.start()
        #expect(try disk.read(0, 512)?.status == 0)
        let next = disk.scratch.buffer(1).address.rawValue & ~4095
        disk.hidden = Set((0...4).map { next + $0 * 4096 })
        try disk.invalidate(TranslatedDisk.shift + next, 5 * 4096)
        #expect(try disk.read(0, 4096, milliseconds: 300) == nil)
        // Nobody waits for the address for long.
        let start = Clock.monotonic()
        try disk.client.stop(0)
        #expect(Clock.monotonic() - start < 900_000_000)
        disk.hidden = []
        let (kick, call) = try (EventFD(), EventFD())
        try disk.client.configure(0, disk.driver, state: .freshSplit, call: call)
        try disk.client.send(
            .setRingBase, littleEndian(0, UInt32(1)))
        try disk.client.run(0, kick: kick)
        let deadline = Clock.monotonic() + 5_000_000_000
        while try disk.driver.popUsed() == nil, Clock.monotonic() < deadline {
            try disk.translate()
            usleep(200)
        }
        #expect(Clock.monotonic() < deadline)
    }

    @Test("does not write where it may only read")
    func permissions() throws {
        let disk = try TranslatedDisk(Self.contents, ring: 0)
        try disk.start()
        #expect(try disk.read(0, 512)?.status == 0)
        disk.permissions = 1
        let next = disk.scratch.buffer(1).address.rawValue & ~4095
        try disk.invalidate(TranslatedDisk.shift + next, 16 * 4096)
        #expect(try disk.read(0, 8192, milliseconds: 1500) == nil)
        let data = try #require(disk.lastData)
        #expect(disk.scratch.bytes(data) == [UInt8](repeating: 0, count: 8192))
    }

    @Test("refuses translations that make no sense", arguments: 0...3)
    func nonsense(kind: Int) throws {
        let disk = try TranslatedDisk(Self.contents, ring: 0)
        try disk.start()
        let base = 0x7000_0000_0000 as UInt64
        let payload: [UInt8] =
            switch kind {
            case 0: littleEndian(0x1000, 0, base) + [3, 2]
            case 1: littleEndian(UInt64.max, 2, base) + [3, 2]
            case 2: littleEndian(0x1000, 0x1000, 0x5000 as UInt64) + [3, 2]
            default: littleEndian(0x1000, 0x1000, base) + [3, 4]
            }
        #expect(throws: VhostUserClient.Failure.self) {
            try disk.client.send(
                .iotlb, payload + [UInt8](repeating: 0, count: 6), hasReply: true)
        }
    }
}
