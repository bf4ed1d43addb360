import CLinux
import Core
import Glibc
import TestSupport
import Testing
import VhostUser

@testable import FileSystemBackend

@Suite("Shared folder: another process takes over a program's files") struct FolderStateTests {
    private let rig: SharedFolderRig

    init() throws { rig = try SharedFolderRig("migration-on-error=guest-error") }

    private func makeFolder(_ name: String) throws {
        try #require(unsafe mkdir(rig.folder[name], 0o755) == 0)
    }

    private func attributes(_ node: UInt64) throws -> Answer {
        try rig.call(FUSE.getattr, node, littleEndian(0, 0, 0, 0))
    }

    private func rename(_ name: String, to folder: UInt64, _ newName: String) throws {
        let body = littleEndian(folder) + FUSE.text(name) + FUSE.text(newName)
        #expect(try rig.call(FUSE.rename, FUSE.root, body).error == 0)
    }

    /// The kernel's ext4 says once that such a folder is empty, if its end is the first that is read.
    @Test("a folder that was read to its end has all entries from its beginning on")
    func listedFolder() throws {
        for name in ["a", "b", "c"] { _ = try rig.folder.file(name, [1]) }
        let body = littleEndian(0, 0 as UInt32)
        let handle = try rig.call(FUSE.opendir, FUSE.root, body)[0, UInt64.self]
        func list(from offset: UInt64) throws -> Answer {
            try rig.call(
                FUSE.readdir, FUSE.root,
                littleEndian(handle, offset) + littleEndian(4096 as UInt32, 0)
                    + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32), room: 16 + 4096)
        }
        let all = try list(from: 0)
        var place = 0
        var end: UInt64 = 0
        while place < all.bytes.count {
            end = all[place + 8, UInt64.self]
            place += 24 + (Int(all[place + 16, UInt32.self]) + 7) / 8 * 8
        }
        try rig.handOver()
        #expect(try list(from: end).bytes.isEmpty)
        #expect(try list(from: 0).bytes == all.bytes)
    }

    @Test("files of all kinds keep their numbers, and what is open stays so")
    func kinds() throws {
        try makeFolder("a")
        try makeFolder("a/b")
        try rig.folder.file("a/b/file", Array("old".utf8))
        let a = try rig.node("a")
        let b = try rig.node("b", in: a)
        let file = try rig.node("file", in: b)
        _ = try rig.call(FUSE.symlink, a, FUSE.text("link") + FUSE.text("b/file"))
        let pipe = littleEndian(FUSE.pipe | 0o600, 0, 0, 0) + FUSE.text("pipe")
        #expect(try rig.call(FUSE.mknod, a, pipe).error == 0)
        let nodes = [
            a, b, file, try rig.node("link", in: a), try rig.node("pipe", in: a),
        ]
        let types = [FUSE.folder, FUSE.folder, FUSE.regular, FUSE.linkType, FUSE.pipe]
        let made = try rig.create("made", O_WRONLY | O_APPEND, in: b)
        let appending = (node: made.nodeID, handle: made[128, UInt64.self])
        let reading = try rig.open(file, O_RDONLY)
        let listing = try rig.call(FUSE.opendir, b, littleEndian(0, 0 as UInt32))[0, UInt64.self]
        #expect(try rig.write(appending.node, appending.handle, at: 0, [1]).error == 0)
        for round in 1...3 {
            try rig.handOver()
            #expect(rig.fileSystem.nodes.count == 6, "round \(round)")
            #expect(rig.fileSystem.handles.count == 3)
            for (node, type) in zip(nodes, types) {
                let answer = try attributes(node)
                #expect(answer.error == 0)
                #expect(answer[16 + 60, UInt32.self] & FUSE.typeMask == type)
            }
            #expect(try rig.node("file", in: b) == file)
            #expect(try rig.read(file, reading, at: 0, 10).bytes == Array("old".utf8))
            // To the end, whatever the offset says.
            let byte = UInt8(round + 1)
            #expect(try rig.write(appending.node, appending.handle, at: 0, [byte]).error == 0)
            #expect(try rig.read(appending.node, appending.handle, at: 0, 10).error == EBADF)
            let read =
                littleEndian(listing, 0) + littleEndian(4096 as UInt32, 0)
                + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32)
            #expect(try rig.call(FUSE.readdir, b, read).error == 0)
        }
        #expect(try readFile(rig.folder["a/b/made"]) == [1, 2, 3, 4])
        // As often as it was looked up.
        rig.fileSystem.nodes.forget(file, 3)
        #expect(rig.fileSystem.nodes.isKnown(file))
        rig.fileSystem.nodes.forget(file, 1)
        #expect(!rig.fileSystem.nodes.isKnown(file))
        // Numbers are not used again.
        #expect(try rig.node("file", in: b) != file)
        #expect(try rig.call(FUSE.release, b, littleEndian(listing, 0, 0)).error == 0)
        #expect(try rig.open(appending.node, O_RDONLY) != listing)
    }

    @Test("what was agreed on stays so")
    func abilities() throws {
        try rig.begin(flags: 1 << 3 | 1 << 22)
        let agreed = rig.fileSystem.agreed
        #expect(agreed == 1 << 3 | 1 << 22)
        try rig.handOver()
        #expect(rig.fileSystem.agreed == agreed)
    }

    @Test("files that were moved are found")
    func moved() throws {
        for name in ["known", "unknown", "unknown/deep"] { try makeFolder(name) }
        let known = try rig.node("known")
        for name in ["guest", "host", "folder-guest"] {
            try rig.folder.file(name, Array(name.utf8))
        }
        let guest = try rig.node("guest")
        let guestHandle = try rig.open(guest, O_RDWR)
        let host = try rig.node("host")
        let hostHandle = try rig.open(host, O_RDONLY)
        try rename("guest", to: known, "other")
        #expect(unsafe Glibc.rename(rig.folder["host"], rig.folder["unknown/deep/x"]) == 0)
        // A file in a folder that was moved as a whole.
        try makeFolder("box")
        try rig.folder.file("box/in", Array("in".utf8))
        let inner = try rig.node("in", in: rig.node("box"))
        try rename("box", to: known, "crate")
        for _ in 0..<2 {
            try rig.handOver()
            #expect(try rig.read(guest, guestHandle, at: 0, 10).bytes == Array("guest".utf8))
            #expect(try rig.read(host, hostHandle, at: 0, 10).bytes == Array("host".utf8))
            let handle = try rig.open(inner, O_RDONLY)
            #expect(try rig.read(inner, handle, at: 0, 10).bytes == Array("in".utf8))
        }
        #expect(try rig.write(guest, guestHandle, at: 0, Array("G".utf8)).error == 0)
        #expect(try readFile(rig.folder["known/other"]) == Array("Guest".utf8))
    }

    @Test("a file whose first name is gone is found by another one")
    func otherName() throws {
        let made = try rig.create("first")
        let node = made.nodeID
        try makeFolder("folder")
        let folder = try rig.node("folder")
        let link = littleEndian(node) + FUSE.text("second")
        #expect(try rig.call(FUSE.link, folder, link).error == 0)
        #expect(try rig.call(FUSE.unlink, FUSE.root, FUSE.text("first")).error == 0)
        try rig.handOver()
        let handle = made[128, UInt64.self]
        #expect(try rig.write(node, handle, at: 0, [7]).error == 0)
        #expect(try readFile(rig.folder["folder/second"]) == [7])
    }

    @Test("only what is gone is stale")
    func lost() throws {
        for name in ["gone", "replaced", "moved", "there"] { try rig.folder.file(name, [1]) }
        let names = ["gone", "replaced", "moved", "there"]
        let nodes = try names.map { try rig.node($0) }
        let handles = try nodes.map { try rig.open($0, O_RDONLY) }
        #expect(try rig.call(FUSE.unlink, FUSE.root, FUSE.text("gone")).error == 0)
        #expect(try rig.read(nodes[0], handles[0], at: 0, 10).bytes == [1])
        try rig.handOver {
            // Another file in its place.
            try rig.folder.file("new", [2])
            #expect(unsafe Glibc.rename(rig.folder["new"], rig.folder["replaced"]) == 0)
            #expect(unsafe Glibc.rename(rig.folder["moved"], rig.folder["elsewhere"]) == 0)
        }
        for index in 0..<3 {
            #expect(try attributes(nodes[index]).error == ESTALE, "\(names[index])")
            #expect(
                try rig.read(nodes[index], handles[index], at: 0, 10).error == ESTALE,
                "\(names[index])")
            // The driver lets go of it all the same.
            let release = littleEndian(handles[index], 0, 0)
            #expect(try rig.call(FUSE.release, nodes[index], release).error == 0)
            rig.fileSystem.nodes.forget(nodes[index], 1)
        }
        #expect(try rig.read(nodes[3], handles[3], at: 0, 10).bytes == [1])
        #expect(rig.fileSystem.nodes.count == 1)
        #expect(rig.fileSystem.handles.count == 1)
        // It is another one.
        let replaced = try rig.node("replaced")
        #expect(!nodes.contains(replaced))
        let handle = try rig.open(replaced, O_RDONLY)
        #expect(try rig.read(replaced, handle, at: 0, 10).bytes == [2])
    }

    @Test("who has a file open that is removed goes over to nobody, and goes on")
    func refusedBefore() throws {
        let rig = try SharedFolderRig()
        let made = try rig.create("file")
        let (node, handle) = (made.nodeID, made[128, UInt64.self])
        #expect(try rig.call(FUSE.unlink, FUSE.root, FUSE.text("file")).error == 0)
        rig.device.reset()
        #expect(throws: VirtioDeviceError.self) { try rig.device.saveState() }
        for index in rig.lanes.indices { try rig.start(index) }
        #expect(try rig.write(node, handle, at: 0, [1]).error == 0)
        // One that is only known is no obstacle.
        #expect(try rig.call(FUSE.release, node, littleEndian(handle, 0, 0)).error == 0)
        try rig.handOver()
    }

    @Test("a file that is gone when another process looks for it is its refusal")
    func refusedAfterwards() throws {
        let rig = try SharedFolderRig()
        let path = try rig.folder.file("file", [1])
        _ = try rig.open(rig.node("file"), O_RDONLY)
        #expect(throws: VirtioDeviceError.self) {
            try rig.handOver { #expect(unsafe unlink(path) == 0) }
        }
        #expect(rig.fileSystem.nodes.count == 0 && rig.fileSystem.handles.count == 0)
    }

    @Test("what was stale before does not keep anybody from going over")
    func staleAgain() throws {
        let made = try rig.create("file")
        let (node, handle) = (made.nodeID, made[128, UInt64.self])
        #expect(try rig.call(FUSE.unlink, FUSE.root, FUSE.text("file")).error == 0)
        try rig.handOver()
        for _ in 1...2 {
            try rig.handOver("migration-on-error=abort")
            #expect(try rig.write(node, handle, at: 0, [1]).error == ESTALE)
        }
    }

    @Test("more files than a process has open go over")
    func many() throws {
        let rig = try SharedFolderRig("rlimit-nofile=128")
        try #require(unsafe mkdir(rig.folder["a"], 0o755) == 0)
        let folder = try rig.node("a")
        let names = (0..<300).map { "f\($0)" }
        for name in names { try rig.folder.file("a/\(name)", Array(name.utf8)) }
        let nodes = try names.map { try rig.node($0, in: folder) }
        for _ in 0..<2 {
            try rig.handOver()
            for (node, name) in zip(nodes, names) {
                let handle = try rig.open(node, O_RDONLY)
                #expect(try rig.read(node, handle, at: 0, 10).bytes == Array(name.utf8))
                _ = try rig.call(FUSE.release, node, littleEndian(handle, 0, 0))
            }
            #expect(try rig.node("f7", in: folder) == nodes[7])
        }
    }

    @Test("what is shared for reading from then on is not opened for writing")
    func readOnly() throws {
        let made = try rig.create("file")
        let (node, handle) = (made.nodeID, made[128, UInt64.self])
        let reading = try rig.open(node, O_RDONLY)
        try rig.handOver("readonly=on,migration-on-error=guest-error")
        #expect(try rig.write(node, handle, at: 0, [1]).error != 0)
        #expect(try rig.read(node, handle, at: 0, 1).error == ESTALE)
        #expect(try rig.read(node, reading, at: 0, 1).error == 0)
    }

    @Test("a process that was asked for its state and goes on has lost nothing")
    func goesOn() throws {
        let made = try rig.create("file")
        let (node, handle) = (made.nodeID, made[128, UInt64.self])
        rig.device.reset()
        #expect(try !rig.device.saveState().isEmpty)
        for index in rig.lanes.indices { try rig.start(index) }
        #expect(try rig.write(node, handle, at: 0, [1]).error == 0)
    }

    // MARK: Locks

    private func setLock(
        _ rig: SharedFolderRig, _ node: UInt64, _ handle: UInt64, _ type: UInt32, owner: UInt64,
        _ range: ClosedRange<UInt64>, flags: UInt32 = 0
    ) throws -> Int32 {
        let body =
            littleEndian(handle, owner) + littleEndian(range.lowerBound, range.upperBound)
            + littleEndian(type, UInt32(owner), flags, 0)
        return try rig.call(FUSE.setlk, node, body).error
    }

    /// What another program of the host would meet.
    private func hostSees(_ rig: SharedFolderRig, at offset: Int64) -> Int32 {
        let file = unsafe open(rig.folder["file"], O_RDWR)
        defer { close(file) }
        var lock = clinux_lock(start: offset, length: 1, type: Int32(F_WRLCK))
        #expect(unsafe clinux_find_lock(file, &lock) == 0)
        return Int32(lock.type)
    }

    @Test("locks go over, also to a process beside the old one")
    func locks() throws {
        let rig = try SharedFolderRig("posix-lock=on,flock=on")
        try rig.folder.file("file", [])
        try rig.folder.file("whole", [])
        let node = try rig.node("file")
        let handle = try rig.open(node, O_RDWR)
        let whole = try rig.node("whole")
        let wholeHandle = try rig.open(whole, O_RDONLY)
        #expect(try setLock(rig, node, handle, 1, owner: 1, 10...19) == 0)
        #expect(try setLock(rig, node, handle, 0, owner: 1, 12...13) == 0)
        #expect(try setLock(rig, node, handle, 2, owner: 1, 15...15) == 0)
        #expect(try setLock(rig, node, handle, 1, owner: 2, 30...UInt64(Int64.max)) == 0)
        #expect(try setLock(rig, whole, wholeHandle, 1, owner: 3, 0...0, flags: 1) == 0)
        for _ in 0..<2 {
            try rig.handOver()
            let places: [Int64] = [9, 10, 12, 14, 15, 16, 20, 1 << 40]
            let (none, read, write) = (Int32(F_UNLCK), Int32(F_RDLCK), Int32(F_WRLCK))
            #expect(
                places.map { hostSees(rig, at: $0) }
                    == [none, write, read, write, none, write, none, write])
            let file = unsafe open(rig.folder["whole"], O_RDONLY)
            #expect(flock(file, LOCK_SH | LOCK_NB) == -1)
            close(file)
            // Each is still its owner's.
            #expect(try setLock(rig, node, handle, 1, owner: 2, 10...10) == EAGAIN)
            #expect(try setLock(rig, node, handle, 1, owner: 1, 10...11) == 0)
        }
        let flush = littleEndian(handle, 0) + littleEndian(1 as UInt64)
        #expect(try rig.call(FUSE.flush, node, flush).error == 0)
        #expect(hostSees(rig, at: 10) == F_UNLCK)
        // What one gave back and nobody took, it has again.
        rig.device.reset()
        _ = try rig.device.saveState()
        #expect(hostSees(rig, at: 40) == F_UNLCK)
        for index in rig.lanes.indices { try rig.start(index) }
        #expect(hostSees(rig, at: 40) == F_WRLCK)
    }

    // MARK: What peers bring

    @Test("a state that is cut off changes nothing")
    func truncated() throws {
        let (node, handle) = try openFile()
        rig.device.reset()
        let state = try rig.device.saveState()
        for count in 1..<state.count {
            #expect(throws: VirtioDeviceError.self) {
                try rig.device.loadState(Array(state.prefix(count)))
            }
        }
        #expect(throws: VirtioDeviceError.self) { try rig.device.loadState(state + [0]) }
        for index in rig.lanes.indices { try rig.start(index) }
        #expect(try rig.read(node, handle, at: 0, 10).bytes == [1, 2, 3])
    }

    private func openFile() throws -> (node: UInt64, handle: UInt64) {
        try rig.folder.file("file", [1, 2, 3])
        let node = try rig.node("file")
        return (node, try rig.open(node, O_RDONLY))
    }

    /// A state with one node and one open file of it.
    private func state(
        root: UInt64? = nil, _ place: ClosedNode.Place, parent: UInt64 = 1, generation: UInt32 = 1,
        kind: clinux_handle_kind = CLINUX_HANDLE_FILE
    ) -> [UInt8] {
        let key = rig.fileSystem.nodes.root.key
        var writer = FolderState.Writer(rootInode: root ?? key.inode, abilities: 0)
        writer.putCount(1)
        writer.put(
            SavedNode(
                lookups: 1, parent: parent, type: FUSE.regular, inode: 1, isOnOtherMount: false,
                seconds: 0, nanoseconds: 0, place: place), generation: generation)
        writer.putCount(1)
        writer.put(
            SavedFile(
                nodeID: UInt64(generation) << 32, kind: kind, flags: O_RDWR, lockOwner: .none,
                held: HeldLocks()), generation: 1)
        writer.putCount(0)
        return writer.bytes
    }

    private static func text(_ text: String) -> [CChar] { text.utf8CString.map { $0 } }

    @Test(
        "names that are none are refused",
        arguments: ["", ".", "..", "a/b", "/", String(repeating: "x", count: 256)])
    func badNames(name: String) throws {
        rig.device.reset()
        #expect(throws: VirtioDeviceError.self) {
            try rig.device.loadState(state(.name(Self.text(name))))
        }
    }

    @Test("paths that lead out are refused", arguments: ["/etc", "../x", "a//b", "a/..", "a/./b"])
    func badPaths(path: String) throws {
        rig.device.reset()
        #expect(throws: VirtioDeviceError.self) {
            try rig.device.loadState(state(.path(Self.text(path))))
        }
    }

    @Test("the state of another folder, and numbers that are never given, are refused")
    func refused() throws {
        rig.device.reset()
        #expect(throws: VirtioDeviceError.self) {
            try rig.device.loadState(state(root: 99, .name(Self.text("x"))))
        }
        #expect(throws: VirtioDeviceError.self) {
            try rig.device.loadState(state(.name(Self.text("x")), generation: 0))
        }
    }

    @Test("folders that lie in each other are stale")
    func circle() throws {
        rig.device.reset()
        try rig.device.loadState(state(.name(Self.text("x")), parent: 1 << 32))
        for index in rig.lanes.indices { try rig.start(index) }
        #expect(try attributes(1 << 32).error == ESTALE)
        #expect(try rig.read(1 << 32, 1 << 32, at: 0, 1).error == ESTALE)
    }

    @Test("links and special files are not opened")
    func special() throws {
        try rig.folder.file("target", [1])
        #expect(unsafe symlink("target", rig.folder["link"]) == 0)
        #expect(unsafe mkfifo(rig.folder["pipe"], 0o600) == 0)
        let names = ["link", "pipe"]
        for name in names {
            let node = try rig.node(name)
            rig.device.reset()
            var reader = try FolderState.Reader(try rig.device.saveState())
            _ = try reader.count(limit: 10)
            let key = try #require(
                rig.fileSystem.nodes.state.withLock { $0.entries[node]?.content.key })
            let status = try rig.fileSystem.nodes.node(node).status()
            var writer = FolderState.Writer(
                rootInode: rig.fileSystem.nodes.root.key.inode, abilities: 0)
            writer.putCount(1)
            writer.put(
                SavedNode(
                    lookups: 1, parent: 1, type: FUSE.regular, inode: key.inode,
                    isOnOtherMount: false, seconds: status.btime, nanoseconds: status.btime_ns,
                    place: .name(Self.text(name))), generation: 1)
            writer.putCount(3)
            for kind in [CLINUX_HANDLE_FILE, CLINUX_HANDLE_FOLDER, CLINUX_HANDLE_LOCKS] {
                writer.put(
                    SavedFile(
                        nodeID: 1 << 32, kind: kind, flags: O_RDWR, lockOwner: .none,
                        held: HeldLocks()), generation: 1)
            }
            writer.putCount(0)
            try rig.device.loadState(writer.bytes)
            for index in rig.lanes.indices { try rig.start(index) }
            #expect(try attributes(1 << 32).error == 0)
            #expect(try rig.read(1 << 32, 1 << 32, at: 0, 1).error == ESTALE)
            #expect(rig.fileSystem.handles.snapshot[slot: 1]?.item.isLost == true)
            #expect(rig.fileSystem.handles.snapshot[slot: 2]?.item.isLost == true)
            _ = try rig.begin()
        }
    }
}

@Suite("Locks that are held") struct HeldLocksTests {
    private func range(_ start: Int64, _ end: Int64, _ kind: HeldLocks.Kind) -> HeldLocks.Range {
        HeldLocks.Range(start: start, end: end, kind: kind)
    }

    @Test("parts are cut and joined as the kernel does it")
    func parts() {
        var held = HeldLocks()
        held.set(10, through: 19, .write)
        held.set(12, through: 13, .read)
        #expect(
            held.ranges == [range(10, 11, .write), range(12, 13, .read), range(14, 19, .write)])
        held.set(12, through: 13, .write)
        #expect(held.ranges == [range(10, 19, .write)])
        held.set(20, through: .max, .write)
        #expect(held.ranges == [range(10, .max, .write)])
        held.set(0, through: 9, .read)
        held.set(15, through: 15, .unlock)
        #expect(
            held.ranges == [range(0, 9, .read), range(10, 14, .write), range(16, .max, .write)])
        held.set(0, through: .max, .unlock)
        #expect(held.isEmpty)
    }

    @Test("as many as the limit are noted")
    func limit() {
        var held = HeldLocks()
        for place in 0..<Int64(HeldLocks.limit + 10) {
            held.set(2 * place, through: 2 * place, .write)
        }
        #expect(held.ranges.count == HeldLocks.limit)
        let isTaken = held.append(range(.max, .max, .read))
        #expect(!isTaken)
    }
}
