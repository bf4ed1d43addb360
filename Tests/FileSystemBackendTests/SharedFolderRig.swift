import CLinux
import Core
import Glibc
import TestSupport
import Testing
import VhostUser

@testable import FileSystemBackend

/// A folder of a test's own, shared by a started device, with a driver for each of its queues.
final class SharedFolderRig {
    /// One queue and its driver.
    final class Lane {
        let driver: DriverQueue
        let kick: EventFD
        let call: EventFD
        let request: DriverBuffer
        let reply: DriverBuffer
        private let scratch: ScratchMemory
        private var unique: UInt64 = 0

        static let replySize = 1 << 18

        init(_ scratch: ScratchMemory, ring: UInt64) throws {
            self.scratch = scratch
            driver = DriverQueue(
                scratch, size: 16,
                features: ring | VirtioFeature.version1 | VirtioFeature.indirectDescriptors,
                tableSize: 32)
            kick = try EventFD()
            call = try EventFD()
            request = scratch.buffer(1 << 18)
            reply = scratch.buffer(Self.replySize)
        }

        /// The bytes of a request (`fuse_in_header` and what follows).
        func bytes(
            _ opcode: UInt32, _ node: UInt64, _ body: [UInt8], user: UInt32 = 0, group: UInt32 = 0
        ) -> [UInt8] {
            unique += 1
            return littleEndian(UInt32(40 + body.count), opcode) + littleEndian(unique, node)
                + littleEndian(user, group, 1, 0) + body
        }

        /// Sends bytes and waits for the answer.
        /// - Parameter cuts: where the request is cut into buffers, and the reply likewise.
        func exchange(
            _ bytes: [UInt8], room: Int = replySize, cuts: [Int] = []
        ) throws -> Answer? {
            try scratch.memory.write(request.address, bytes)
            try scratch.memory.write(reply.address, [UInt8](repeating: 0xee, count: min(room, 256)))
            let added = driver.add(
                readable: Self.pieces(request.address, bytes.count, cuts),
                writable: Self.pieces(reply.address, room, cuts), style: .indirect)
            precondition(added)
            if driver.publish() { kick.signal() }
            let used = try #require(try driver.awaitUsed(call), "no answer")
            if used.written == 0 { return nil }
            let answer = try scratch.memory.readBytes(reply.address, count: Int(used.written))
            let whole = Answer(error: 0, bytes: answer)
            #expect(whole[0, UInt32.self] == used.written)
            if bytes.count >= 16 { #expect(Array(bytes[8..<16]) == Array(answer[8..<16])) }
            return Answer(error: -whole[4, Int32.self], bytes: Array(answer.dropFirst(16)))
        }

        /// Sends bytes whose answer may take long.
        /// - Parameter isLast: whether the device is told of it, and of those before.
        /// - Returns: what `answer` takes.
        func post(_ bytes: [UInt8], isLast: Bool = true) throws -> DriverBuffer {
            let request = scratch.buffer(bytes.count)
            let reply = scratch.buffer(256)
            try scratch.memory.write(request.address, bytes)
            let added = driver.add(
                readable: [request], writable: [reply], style: .indirect,
                token: reply.address.rawValue)
            precondition(added)
            if isLast, driver.publish() { kick.signal() }
            return reply
        }

        /// The next answer, which must be that to a request that was posted.
        /// - Returns: its error; `nil` if there is none for `milliseconds`.
        func answer(to reply: DriverBuffer, milliseconds: UInt64 = 10_000) throws -> Int32? {
            guard let used = try driver.awaitUsed(call, timeoutMilliseconds: milliseconds) else {
                return nil
            }
            try #require(used.token == reply.address.rawValue, "the answer to something else")
            let bytes = try scratch.memory.readBytes(reply.address, count: Int(used.written))
            return -Answer(error: 0, bytes: bytes)[4, Int32.self]
        }

        private static func pieces(
            _ address: GuestAddress, _ count: Int, _ cuts: [Int]
        ) -> [DriverBuffer] {
            let places = [0] + cuts.filter { $0 < count } + [count]
            return zip(places, places.dropFirst()).filter { $0 < $1 }.map {
                DriverBuffer(GuestAddress(address.rawValue + UInt64($0)), UInt32($1 - $0))
            }
        }
    }

    let folder: TestFolder
    private(set) var fileSystem: FileSystem
    private(set) var device: FSDevice
    private let files: SharedFolder
    private let options: FSOptions
    private var keeper: Keeper?
    /// Nobody runs it.
    private let loop: EventLoop
    let scratch: ScratchMemory
    private let notifies: Bool
    private let window: WindowChannel?
    private(set) var lanes: [Lane] = []

    init(
        _ text: String = "", ring: UInt64 = 0, queues: Int = 1, isStarted: Bool = true,
        in parent: String = "/tmp", isKept: Bool = false, notifies: Bool = false,
        window: WindowChannel? = nil
    ) throws {
        self.window = window
        self.notifies = notifies
        folder = try TestFolder(in: parent)
        let options = try FSOptions(
            FSOptions.schema.parse(
                "path=\(folder.path),num-queues=\(queues)" + (text.isEmpty ? "" : ",\(text)")))
        self.options = options
        files = try SharedFolder(options)
        loop = try EventLoop()
        keeper = isKept ? try Self.takeOver(files, loop) : nil
        fileSystem = try FileSystem(
            files, options, ledger: keeper?.ledger,
            fileHandles: FileHandles.make(options.fileHandles, files.folder))
        device = FSDevice(options) { [fileSystem] in fileSystem }
        device.useSharedMemory(window)
        scratch = try ScratchMemory(size: 8 << 20)
        if notifies {
            try device.setFeatures(VirtioFeature.version1 | FSDevice.notification)
        }
        for index in 0...queues + (notifies ? 1 : 0) {
            lanes.append(try Lane(scratch, ring: ring))
            try start(index)
        }
        if isStarted { _ = try begin() }
    }

    deinit { device.reset() }

    private static func takeOver(_ files: SharedFolder, _ loop: EventLoop) throws -> Keeper {
        let keeper = try Keeper(files.keeperFiles, on: loop)
        keeper.takeOver()
        return keeper
    }

    /// Goes on with the device of another process.
    /// - Parameter stage: what the old process had noted of `request` when it died; it has done it.
    func replace(while request: [UInt8]? = nil, at stage: clinux_task_stage? = nil) throws {
        device.reset()
        if let request, let stage {
            let task = try unsafe #require(fileSystem.ledger).task(1)
            unsafe task.pointee.unique = request[8..<16].reversed().reduce(0) {
                $0 << 8 | UInt64($1)
            }
            unsafe task.pointee.stage = stage.rawValue
        }
        // Nothing of what it has is closed, as nothing is by a process that is killed.
        _ = unsafe Unmanaged.passRetained(fileSystem)
        keeper = try Self.takeOver(files, loop)
        fileSystem = try FileSystem(
            files, options, ledger: keeper?.ledger,
            fileHandles: FileHandles.make(options.fileHandles, files.folder))
        device = FSDevice(options) { [fileSystem] in fileSystem }
        device.useSharedMemory(window)
        for index in lanes.indices { try start(index) }
    }

    /// Processes that others have followed, with all that they had open.
    private(set) var predecessors: [FSDevice] = []

    /// Goes on with the device of a process that was started by itself, as this one was.
    /// - Parameter meanwhile: what happens before that one has its state.
    /// - Returns: the state.
    @discardableResult
    func handOver(_ text: String = "", meanwhile: () throws -> Void = {}) throws -> [UInt8] {
        device.reset()
        let state = try device.saveState()
        predecessors.append(device)
        try meanwhile()
        var options = self.options
        if !text.isEmpty {
            options = try FSOptions(FSOptions.schema.parse("path=\(folder.path),\(text)"))
        }
        let files = try SharedFolder(options)
        fileSystem = try FileSystem(
            files, options, fileHandles: FileHandles.make(options.fileHandles, files.folder))
        device = FSDevice(options) { [fileSystem] in fileSystem }
        if notifies { try device.setFeatures(VirtioFeature.version1 | FSDevice.notification) }
        device.useSharedMemory(window)
        try device.loadState(state)
        for index in lanes.indices { try start(index) }
        return state
    }

    func start(_ index: Int) throws {
        let lane = lanes[index]
        try device.startQueue(
            index, lane.driver.setup(scratch.memory, kick: lane.kick, call: lane.call))
    }

    /// INIT
    @discardableResult
    func begin(major: UInt32 = 7, minor: UInt32 = 38, flags: UInt64 = .max) throws -> Answer {
        try call(
            FUSE.start, 0,
            littleEndian(major, minor, 65536, UInt32(truncatingIfNeeded: flags))
                + littleEndian(UInt32(flags >> 32)) + [UInt8](repeating: 0, count: 44))
    }

    /// A request on the first queue for requests.
    func call(
        _ opcode: UInt32, _ node: UInt64 = FUSE.root, _ body: [UInt8] = [], user: UInt32 = 0,
        group: UInt32 = 0, room: Int = Lane.replySize, cuts: [Int] = []
    ) throws -> Answer {
        let lane = lanes[notifies ? 2 : 1]
        let bytes = lane.bytes(opcode, node, body, user: user, group: group)
        return try #require(try lane.exchange(bytes, room: room, cuts: cuts), "an empty answer")
    }

    func lookUp(_ name: String, in node: UInt64 = FUSE.root) throws -> Answer {
        try call(FUSE.lookup, node, FUSE.text(name))
    }

    /// The number of a file that must be there.
    func node(_ name: String, in parent: UInt64 = FUSE.root) throws -> UInt64 {
        let answer = try lookUp(name, in: parent)
        try #require(answer.error == 0, "there is no \(name)")
        return answer.nodeID
    }

    /// The number of an open file.
    func open(_ node: UInt64, _ flags: Int32) throws -> UInt64 {
        let answer = try call(FUSE.open, node, littleEndian(UInt32(bitPattern: flags), 0))
        try #require(answer.error == 0, "not opened: errno \(answer.error)")
        return answer[0, UInt64.self]
    }

    func create(
        _ name: String, _ flags: Int32 = O_RDWR, mode: UInt32 = 0o644,
        in parent: UInt64 = FUSE.root,
        user: UInt32 = 0, group: UInt32 = 0
    ) throws -> Answer {
        try call(
            FUSE.create, parent,
            littleEndian(UInt32(bitPattern: flags), mode, 0, 0) + FUSE.text(name), user: user,
            group: group)
    }

    func write(
        _ node: UInt64, _ handle: UInt64, at offset: UInt64, _ data: [UInt8], cuts: [Int] = []
    ) throws -> Answer {
        try call(
            FUSE.write, node,
            littleEndian(handle, offset) + littleEndian(UInt32(data.count), 0)
                + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32) + data, cuts: cuts)
    }

    func read(
        _ node: UInt64, _ handle: UInt64, at offset: UInt64, _ size: Int, room: Int? = nil,
        cuts: [Int] = []
    ) throws -> Answer {
        try call(
            FUSE.read, node,
            littleEndian(handle, offset) + littleEndian(UInt32(size), 0)
                + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32),
            room: 16 + (room ?? size), cuts: cuts)
    }

    func setAttributes(
        _ node: UInt64, valid: UInt32, handle: UInt64 = 0, size: UInt64 = 0, mtime: UInt64 = 0,
        mode: UInt32 = 0, user: UInt32 = 0, group: UInt32 = 0
    ) throws -> Answer {
        try call(
            FUSE.setattr, node,
            littleEndian(valid, 0) + littleEndian(handle, size, 0, 0, mtime, 0)
                + littleEndian(0, 0, 0, mode, 0, user, group, 0))
    }

    /// All names of a folder, read in pieces of `size` bytes.
    func names(
        of node: UInt64 = FUSE.root, size: Int = 4096, plus: Bool = false
    ) throws -> [String] {
        let handle = try call(FUSE.opendir, node, littleEndian(0, 0 as UInt32))[0, UInt64.self]
        defer {
            _ = try? call(
                FUSE.releasedir, node, littleEndian(handle, 0, 0))
        }
        var names: [String] = []
        var offset: UInt64 = 0
        while true {
            let answer = try call(
                plus ? FUSE.readdirplus : FUSE.readdir, node,
                littleEndian(handle, offset) + littleEndian(UInt32(size), 0)
                    + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32), room: 16 + size)
            try #require(answer.error == 0, "errno \(answer.error)")
            if answer.bytes.isEmpty { return names }
            var place = 0
            while place < answer.bytes.count {
                let start = place + (plus ? 128 : 0)
                let length = Int(answer[start + 16, UInt32.self])
                offset = answer[start + 8, UInt64.self]
                let text = answer.bytes[start + 24..<start + 24 + length]
                names.append(String(decoding: text, as: UTF8.self))
                place = start + 24 + (length + 7) / 8 * 8
            }
        }
    }
}
