import CLinux
import Core
import Glibc
import TestSupport
import VhostUser

@testable import FileSystemBackend

/// States of a shared folder that a peer has made up (VHOST_USER_SET_DEVICE_STATE_FD). Whatever is in
/// them, what was known before stays if they are refused, and a file beside the folder stays as it is.
struct FolderStateTarget: FuzzTarget {
    static let name = "fs-state"
    static let about = "states of a shared folder"
    static let testCount = 600

    private static let window: UInt64 = 2 << 20
    private static let names = ["file", "folder", "a", "link", "..", "folder/a", "../outside", ""]

    static let seeds: [[UInt8]] = [
        FuzzSeed.make { seed in
            seed.choose(0, of: 4)
            seed.putZeroes(64)
        }
    ]

    private let parent: TestFolder
    private let fileSystem: FileSystem
    private let device: FSDevice
    /// What the folder's files are.
    private let known: [(inode: UInt64, seconds: Int64, nanoseconds: UInt32)]

    init() throws {
        parent = try TestFolder(in: "/dev/shm")
        try parent.file("outside", Array("outside".utf8))
        let share = parent["share"]
        guard unsafe mkdir(share, 0o755) == 0, unsafe mkdir("\(share)/folder", 0o755) == 0,
            unsafe symlink("../../outside", "\(share)/link") == 0
        else { throw SystemError("mkdir", errno: errno) }
        try parent.file("share/file", [1, 2, 3])
        try parent.file("share/folder/a", [1])
        let options = try FSOptions(
            FSOptions.schema.parse(
                "path=\(share),posix-lock=on,flock=on,cache-size=2M,migration-on-error=guest-error")
        )
        fileSystem = try FileSystem(SharedFolder(options), options)
        device = FSDevice(options) { [fileSystem] in fileSystem }
        known = ["file", "folder", "link", "folder/a"].map { name in
            let file = unsafe open("\(share)/\(name)", CLINUX_O_PATH | O_NOFOLLOW)
            defer { close(file) }
            let status = try? FileStatus.of(file)
            return (status?.inode ?? 0, status?.btime ?? 0, status?.btime_ns ?? 0)
        }
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        fileSystem.end()
        var bytes = input.rarely(4) ? input.take(200) : state(&input)
        if input.rarely(4) { bytes = Array(bytes.prefix(input.below(bytes.count + 1))) }
        if input.rarely(4), !bytes.isEmpty { bytes[input.below(bytes.count)] ^= input.byte() }
        var wasTaken = true
        do {
            try device.loadState(bytes)
        } catch {
            wasTaken = false
            try require(fileSystem.nodes.count == 0, "a refused state leaves nodes")
            try require(fileSystem.handles.count == 0, "a refused state leaves open files")
        }
        var end: UInt64 = 0
        for mapping in fileSystem.mappings?.all ?? [] {
            try require(
                mapping.start >= end && MappingTable.allows(mapping, in: Self.window),
                "a mapping is no part of the window")
            end = mapping.end
        }
        for id in fileSystem.nodes.ids {
            _ = try? fileSystem.nodes.node(id)
        }
        // It has not become another one by that, and can be had again.
        let again = try device.saveState()
        try device.loadState(again)
        try require(
            try readFile(parent["outside"]) == Array("outside".utf8), "a file outside is changed")
        return wasTaken && fileSystem.nodes.count > 0
    }

    private func state(_ input: inout FuzzInput) -> [UInt8] {
        let root = fileSystem.nodes.root.key.inode
        var writer = FolderState.Writer(
            rootInode: input.rarely(16) ? input.edge() : root, abilities: input.edge())
        let nodes = 1 + input.below(4)
        writer.putCount(input.rarely(16) ? Int(input.number(UInt32.self)) : nodes)
        for _ in 0..<nodes {
            writer.put(
                input.rarely(8) ? nil : node(&input),
                generation: input.rarely(8) ? input.number() : 1)
        }
        let files = input.below(5)
        writer.putCount(input.rarely(16) ? Int(input.number(UInt32.self)) : files)
        for _ in 0..<files { writer.put(input.rarely(8) ? nil : file(&input), generation: 1) }
        let mappings = input.below(4)
        writer.putCount(input.rarely(16) ? Int(input.number(UInt32.self)) : mappings)
        for place in 0..<mappings { writer.put(mapping(&input, UInt64(place) << 16)) }
        return writer.bytes
    }

    private func mapping(_ input: inout FuzzInput, _ place: UInt64) -> MappingTable.Mapping {
        MappingTable.Mapping(
            start: input.rarely(8) ? input.edge() : place,
            size: input.rarely(8) ? input.edge() : input.pick([0x1000, 0x4000, 0x10000, 0x11000]),
            fileOffset: input.rarely(8) ? input.edge() : 0x1000, node: number(&input),
            isWritable: input.rarely(2))
    }

    private func number(_ input: inout FuzzInput) -> UInt64 {
        input.rarely(16) ? input.edge() : input.pick([1, 1 << 32, 1 << 32 | 1, 1 << 32 | 2])
    }

    private func node(_ input: inout FuzzInput) -> SavedNode {
        let file = input.pick(known)
        let text = Array(input.pick(Self.names).utf8CString)
        return SavedNode(
            lookups: input.edge(), parent: number(&input), type: UInt32(input.byte()) << 12,
            inode: file.inode, device: input.rarely(16) ? input.edge() : nil,
            isOnOtherMount: input.rarely(4), seconds: file.seconds,
            nanoseconds: file.nanoseconds,
            place: input.rarely(2) ? .name(text) : input.rarely(4) ? .nowhere : .path(text))
    }

    private func file(_ input: inout FuzzInput) -> SavedFile {
        var held = HeldLocks()
        held.wholeFile = input.pick([LOCK_UN, LOCK_UN, LOCK_SH, LOCK_EX])
        for _ in 0..<input.below(4) {
            let start = Int64(input.byte())
            held.set(start, through: start + Int64(input.byte()), input.pick([.read, .write]))
        }
        return SavedFile(
            nodeID: number(&input),
            kind: input.pick([CLINUX_HANDLE_FILE, CLINUX_HANDLE_FOLDER, CLINUX_HANDLE_LOCKS]),
            flags: Int32(input.byte()) & 3,
            lockOwner: LockOwner(id: number(&input), process: 1, handle: number(&input)),
            held: held)
    }
}
