import CLinux
import Core
import Glibc
import TestSupport
import Testing
import VhostUser

/// A front end whose guest's memory is still on its way: it brings the pages that the back end
/// waits for.
private final class ArrivingGuest {
    /// PAGEFAULT and CONFIGURE_MEM_SLOTS.
    static let protocolFeatures =
        VhostUserClient.usualProtocolFeatures | 1 << 8 | 1 << 15
    private static let pageSize: UInt64 = 4096

    let client: VhostUserClient
    /// Where the guest was.
    let source: ScratchMemory
    let driver: BlockDriver
    private let arriving: ScratchMemory
    private var faults: SharedFD?
    /// Where the back end has the memory.
    private(set) var address: UInt64 = 0
    private(set) var broughtPages: Set<UInt64> = []

    init(_ client: VhostUserClient, features: UInt64) throws {
        self.client = client
        try client.negotiate(
            features, protocolFeatures: Self.protocolFeatures)
        try #require(client.protocolFeatures == Self.protocolFeatures)
        source = try ScratchMemory(size: 4 << 20)
        arriving = try ScratchMemory(size: 4 << 20)
        driver = try BlockDriver(source, features: client.features)
    }

    private var region: GuestRegion { arriving.memory.regions[0] }

    func announce() throws {
        try client.send(.postcopyAdvise)
        let reply = try client.reply(to: .postcopyAdvise)
        let fd = try #require(reply.fds.first)
        faults = fd
        try client.send(.postcopyListen)
    }

    /// - Parameter isWhole: as one table, not as a region that is added.
    func share(asTable isWhole: Bool) throws {
        let (table, fds) = try VhostUserClient.table(arriving.memory, userOffset: 0)
        let region = VhostUserClient.describe(region, userOffset: 0)
        let request: VhostUserClient.Request = isWhole ? .setMemoryTable : .addRegion
        let reply = try client.send(
            request, isWhole ? table : littleEndian(0 as UInt64) + region, fds: fds,
            hasReply: true)
        #expect(
            reply.prefix(24) == (isWhole ? table : littleEndian(0 as UInt64) + region).prefix(24))
        address = VhostUserClient.value(reply, 24, UInt64.self)
        try client.send(request, littleEndian(0 as UInt64))
    }

    /// Starts the queue, from its first request on.
    func startQueue() throws {
        try client.configure(
            0, driver.queue,
            state: client.features & VirtioFeature.packedRing == 0 ? .freshSplit : .freshPacked,
            call: driver.call)
        try client.run(0, kick: driver.kick)
    }

    /// The page that the back end waits for, if it waits within the time.
    func nextFault(milliseconds: Int32 = 5000) throws -> UInt64? {
        let faults = try #require(faults)
        guard clinux_poll_two(faults.rawValue, Int16(POLLIN), -1, 0, milliseconds) != 0 else {
            return nil
        }
        var fault: UInt64 = 0
        // SAFETY: the result lives for the call.
        _ = try checking("read", unsafe clinux_userfault_next(faults.rawValue, &fault))
        if fault == 0 { return nil }
        try #require(fault >= address && fault - address < region.size)
        return (fault - address) / Self.pageSize
    }

    /// Brings a page, once, and lets those go on who wait for it.
    func bring(_ page: UInt64) throws {
        let offset = page * Self.pageSize
        if broughtPages.insert(page).inserted {
            let start = GuestAddress(region.start.rawValue + offset)
            let bytes = try source.memory.readBytes(start, count: Int(Self.pageSize))
            let file = try #require(region.file)
            // SAFETY: the array has as many bytes.
            #expect(
                unsafe pwrite(file.rawValue, bytes, bytes.count, Int(offset)) == bytes.count)
        }
        let faults = try #require(faults)
        let place = UInt(address + offset)
        _ = try checking(
            "wake", clinux_userfault_wake(faults.rawValue, place, Self.pageSize))
    }

    /// Brings pages until something is so.
    func bringPages(until isDone: () throws -> Bool) throws -> Bool {
        for _ in 0..<500 {
            if let page = try nextFault(milliseconds: 20) { try bring(page) }
            if try isDone() { return true }
        }
        return false
    }
}

@Suite(
    "A guest whose memory is still on its way", .enabled(if: BuiltExecutable.path != nil),
    .enabled(if: (try? RemoteFaults.openDevice()) != nil, "/dev/userfaultfd cannot be used"))
struct PostcopyTests {
    private let folder: TestFolder
    private let image: String
    private let process: ChildProcess

    init() throws {
        folder = try TestFolder()
        image = try folder.sparse("image", size: 8 << 20)
        process = try Self.start(["--postcopy"], image, folder)
    }

    private static func start(
        _ options: [String], _ image: String, _ folder: TestFolder
    ) throws -> ChildProcess {
        try ChildProcess(
            path: BuiltExecutable.path ?? "",
            arguments: [
                "apus-block", "--socket-path=\(folder["socket"])", "--disk", "path=\(image)",
                "--log-level", "error",
            ] + options,
            environment: [])
    }

    private func connect() throws -> VhostUserClient {
        try VhostUserClient(path: folder["socket"])
    }

    private static let ring =
        VirtioFeature.version1 | VirtioFeature.indirectDescriptors | VirtioFeature.eventIndex

    @Test(
        "has its requests done with the pages that the front end brings",
        arguments: [0, VirtioFeature.packedRing] as [UInt64], [true, false])
    func arrival(packed: UInt64, isTable: Bool) throws {
        defer { process.kill() }
        let guest = try ArrivingGuest(connect(), features: Self.ring | packed)
        try guest.announce()
        try guest.share(asTable: isTable)
        let contents = (0..<16384).map { UInt8(truncatingIfNeeded: $0 / 5 &+ $0) }
        guest.driver.write(contents, sector: 8)
        try guest.startQueue()
        #expect(
            try guest.bringPages {
                try readFile(image, offset: 4096, count: contents.count) == contents
            })
        // The ring, the request, its data and its status.
        #expect(guest.broughtPages.count >= 5)
        let end = try guest.client.send(.postcopyEnd, hasReply: true)
        #expect(end == littleEndian(0 as UInt64))
        #expect(try guest.client.stop(0) & 0x7fff == 1)
    }

    @Test("keeps nobody waiting when its front end leaves", .timeLimit(.minutes(5)))
    func leaving() throws {
        defer { process.kill() }
        do {
            let guest = try ArrivingGuest(connect(), features: Self.ring)
            try guest.announce()
            try guest.share(asTable: true)
            guest.driver.write([UInt8](repeating: 1, count: 512), sector: 0)
            try guest.startQueue()
            #expect(try guest.nextFault() != nil)
        }
        let client = try connect()
        try client.negotiate(Self.ring)
        let scratch = try ScratchMemory(size: 1 << 20)
        let driver = try BlockDriver(scratch, features: client.features)
        try client.share(scratch.memory)
        let contents = [UInt8](repeating: 7, count: 4096)
        try client.start(0, driver.queue, kick: driver.kick, call: driver.call)
        driver.write(contents, sector: 16)
        #expect(try driver.finishes(EventLoop()))
        #expect(try readFile(image, offset: 8192, count: 4096) == contents)
    }

    @Test("is announced before it is listened for, and before memory is shared")
    func order() throws {
        defer { process.kill() }
        for isAdvised in [false, true] {
            let client = try connect()
            try client.negotiate(
                Self.ring,
                protocolFeatures: ArrivingGuest.protocolFeatures)
            if isAdvised {
                try client.send(.postcopyAdvise)
                _ = try client.reply(to: .postcopyAdvise)
                try client.share(ScratchMemory().memory)
            }
            // With the wish for an answer.
            let listen = VhostUserClient.Request.postcopyListen.rawValue
            try client.socket.send(VhostUserClient.packet(listen, flags: 9, []))
            #expect(try client.reply(to: .postcopyListen).payload != littleEndian(0 as UInt64))
        }
    }

    @Test("is served only where that was asked for")
    func optional() throws {
        process.kill()
        let second = try TestFolder()
        let other = try Self.start([], try second.sparse("image", size: 1 << 20), second)
        defer { other.kill() }
        let client = try VhostUserClient(path: second["socket"])
        try client.negotiate(Self.ring, protocolFeatures: 1 << 8)
        #expect(client.protocolFeatures == 0)
    }
}
