import CLinux
import Core
import Glibc
import TestSupport
import Testing

@testable import FileSystemBackend

/// No driver that is at hand asks for this, so our own one does.
@Suite("Shared folder: what the host changes is told") struct NotificationTests {
    /// FUSE's messages, with what a test looks at.
    private enum Message: Equatable {
        case entry(UInt64, String)
        case inode(UInt64, from: Int64)
    }

    private let rig: SharedFolderRig
    private var lane: SharedFolderRig.Lane { rig.lanes[1] }

    init() throws {
        rig = try SharedFolderRig("notifications=on", notifies: true)
        for _ in 0..<8 { try postBuffer() }
    }

    private func postBuffer() throws {
        let buffer = rig.scratch.buffer(FSNotifier.messageSize)
        precondition(
            lane.driver.add(
                readable: [], writable: [buffer], style: .indirect,
                token: buffer.address.rawValue))
        if lane.driver.publish() { lane.kick.signal() }
    }

    /// The next message; `nil` if there is none.
    private func next(milliseconds: UInt64 = 5000) throws -> Message? {
        let used = try lane.driver.awaitUsed(lane.call, timeoutMilliseconds: milliseconds)
        guard let used else { return nil }
        let bytes = try rig.scratch.memory.readBytes(
            GuestAddress(used.token), count: Int(used.written))
        let answer = Answer(error: 0, bytes: bytes)
        #expect(answer[0, UInt32.self] == used.written)
        #expect(answer[8, UInt64.self] == 0)
        switch answer[4, Int32.self] {
        case 2:
            #expect(bytes.count == 40)
            return .inode(answer[16, UInt64.self], from: answer[24, Int64.self])
        case 3:
            let length = Int(answer[24, UInt32.self])
            #expect(bytes.count == 33 + length)
            #expect(bytes.last == 0)
            return .entry(
                answer[16, UInt64.self], String(decoding: bytes[32..<32 + length], as: UTF8.self))
        default:
            Issue.record("a message of an unknown kind: \(bytes)")
            return nil
        }
    }

    /// Host programs write like this: the file is open before, and closed when nobody looks.
    private func append(_ path: String) {
        let fd = unsafe open(rig.folder[path], O_WRONLY | O_APPEND)
        #expect(unsafe write(fd, "x", 1) == 1)
        close(fd)
    }

    @Test("names that come, go and change")
    func names() throws {
        _ = unsafe mkdir(rig.folder["folder"], 0o755)
        #expect(try rig.lookUp("missing").error == ENOENT)
        let folder = try rig.node("folder")
        #expect(try rig.lookUp("missing", in: folder).error == ENOENT)
        try rig.folder.file("missing", [])
        #expect(try next() == .entry(FUSE.root, "missing"))
        #expect(unsafe rename(rig.folder["missing"], rig.folder["folder/new"]) == 0)
        #expect(try next() == .entry(FUSE.root, "missing"))
        #expect(try next() == .entry(folder, "new"))
        #expect(unsafe unlink(rig.folder["folder/new"]) == 0)
        #expect(try next() == .entry(folder, "new"))
    }

    @Test("data and attributes of files that are known")
    func files() throws {
        try rig.folder.file("file", [1])
        try rig.folder.file("unknown", [1])
        let node = try rig.node("file")
        append("unknown")
        append("file")
        #expect(try next() == .inode(node, from: 0))
        #expect(unsafe chmod(rig.folder["file"], 0o600) == 0)
        #expect(try next() == .inode(node, from: -1))
    }

    @Test("what the driver has changed itself is not told")
    func own() throws {
        let made = try rig.create("mine")
        #expect(try rig.write(made.nodeID, made[128, UInt64.self], at: 0, [1]).error == 0)
        #expect(try rig.setAttributes(made.nodeID, valid: 1, mode: 0o600).error == 0)
        #expect(
            try rig.call(
                FUSE.rename, FUSE.root,
                littleEndian(FUSE.root) + FUSE.text("mine")
                    + FUSE.text("new")
            ).error == 0)
        #expect(try rig.call(FUSE.unlink, FUSE.root, FUSE.text("absent")).error == ENOENT)
        #expect(try next(milliseconds: 100) == nil)
        // What failed is not waited for, and what was done is so only once.
        try rig.folder.file("absent", [])
        #expect(try next() == .entry(FUSE.root, "absent"))
        #expect(unsafe unlink(rig.folder["new"]) == 0)
        #expect(try next() == .entry(FUSE.root, "new"))
    }

    @Test("nothing is lost while there are no buffers")
    func withoutBuffers() throws {
        #expect(try rig.lookUp("x").error == ENOENT)
        let names = (0..<12).map { "file\($0)" }
        for name in names { try rig.folder.file(name, []) }
        for name in names.prefix(8) { #expect(try next() == .entry(FUSE.root, name)) }
        #expect(try next(milliseconds: 50) == nil)
        for _ in 0..<4 { try postBuffer() }
        for name in names.dropFirst(8) { #expect(try next() == .entry(FUSE.root, name)) }
    }

    @Test("folders that are forgotten are not watched any more")
    func forgotten() throws {
        _ = unsafe mkdir(rig.folder["folder"], 0o755)
        let folder = try rig.node("folder")
        #expect(try rig.lookUp("x", in: folder).error == ENOENT)
        rig.fileSystem.nodes.forget(folder, 1)
        try rig.folder.file("folder/x", [])
        try rig.folder.file("y", [])
        #expect(try next() == .entry(FUSE.root, "y"))
        #expect(try rig.begin().error == 0)
        try rig.folder.file("z", [])
        #expect(try next(milliseconds: 50) == nil)
    }

    @Test("the queue ends while it has nothing to tell, and while there is no buffer")
    func ends() throws {
        #expect(try rig.lookUp("x").error == ENOENT)
        _ = rig.device.stopQueue(1)
        try rig.start(1)
        for name in 0..<12 { try rig.folder.file("file\(name)", []) }
        usleep(20_000)
        _ = rig.device.stopQueue(1)
    }

    @Test("of two names for one file nothing changes, so the next change is told")
    func hardLinks() throws {
        try rig.folder.file("one", [1])
        #expect(unsafe link(rig.folder["one"], rig.folder["two"]) == 0)
        _ = try rig.node("one")
        while try next(milliseconds: 50) != nil { try postBuffer() }
        let body = littleEndian(FUSE.root) + FUSE.text("one") + FUSE.text("two")
        #expect(try rig.call(FUSE.rename, FUSE.root, body).error == 0)
        #expect(unsafe unlink(rig.folder["two"]) == 0)
        var messages: [Message] = []
        while !messages.contains(.entry(FUSE.root, "two")) {
            messages.append(try #require(try next()))
            try postBuffer()
        }
    }

    @Test("a folder with two numbers is watched until both are forgotten")
    func twoNumbers() throws {
        let watch = try #require(rig.fileSystem.watch)
        _ = unsafe mkdir(rig.folder["folder"], 0o755)
        let node = try rig.fileSystem.nodes.node(rig.node("folder"))
        let proc = rig.fileSystem.proc
        let thread = try Thread(name: "watch") {
            #expect(clinux_enter_descriptors(proc.rawValue) == 0)
            for id: UInt64 in [71, 72] { watch.watch(id, node, isKnown: { _ in true }) }
        }
        thread.join()
        let folders = (1...4).map { watch.folders(of: $0) }
        let number = Int32(try #require(folders.firstIndex { $0.contains(71) }) + 1)
        #expect(watch.folders(of: number).suffix(2) == [71, 72])
        watch.end(71 as UInt64)
        #expect(watch.folders(of: number).contains(72))
    }

    @Test("a process that goes on with another's folders watches them, and tells of all")
    func caughtUp() throws {
        _ = unsafe mkdir(rig.folder["folder"], 0o755)
        let folder = try rig.node("folder")
        try rig.folder.file("folder/file", [])
        let file = try rig.node("file", in: folder)
        // The next process begins behind all buffers that are there.
        for number in 0..<8 { try rig.folder.file("used\(number)", []) }
        for number in 0..<8 { #expect(try next() == .entry(FUSE.root, "used\(number)")) }
        try rig.handOver()
        for _ in 0..<8 { try postBuffer() }
        var missing = [FUSE.root, folder, file].map { Message.inode($0, from: 0) }
        missing += [.entry(FUSE.root, "folder"), .entry(folder, "file")]
        // A long wait for those that must come, and a short one for others.
        while let message = try next(milliseconds: missing.isEmpty ? 200 : 5000) {
            missing.removeAll { $0 == message }
            try postBuffer()
        }
        #expect(missing.isEmpty)
        // Nobody has asked for anything there since.
        try rig.folder.file("folder/new", [])
        #expect(try next() == .entry(folder, "new"))
    }

    @Test("drivers are told how large their buffers must be")
    func config() {
        #expect(rig.device.readConfig(offset: 40, count: 8) == littleEndian(288 as UInt32))
    }
}
