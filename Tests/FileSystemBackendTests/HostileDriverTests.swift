import CLinux
import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@testable import FileSystemBackend

@Suite("Shared folder: hostile drivers") struct HostileDriverTests {
    @Test("requests that end too early are refused, and nothing happens", arguments: FUSE.all)
    func short(opcode: UInt32) throws {
        let rig = try SharedFolderRig("xattr=on")
        try rig.folder.file("file")
        let lane = rig.lanes[1]
        // What can be met without arguments.
        let needsNothing: Set<UInt32> = [
            FUSE.getattr, FUSE.statfs, FUSE.destroy, FUSE.syncfs, FUSE.statx, FUSE.opendir,
            FUSE.interrupt, FUSE.listxattr,
        ]
        for count in 0..<24 {
            let body = [UInt8](repeating: 0, count: count)
            let answer = try lane.exchange(lane.bytes(opcode, FUSE.root, body))
            if needsNothing.contains(opcode) { continue }
            if opcode == FUSE.forget || opcode == FUSE.batchForget { continue }
            #expect(
                answer?.error != 0 || opcode == FUSE.release || opcode == FUSE.releasedir
                    || opcode == FUSE.access, "\(count)")
        }
        #expect(readFolder(rig.folder.path) == ["file"])
        #expect(try rig.begin().error == 0)
    }

    @Test("a header that is cut off, or lies about the length, is answered with an error")
    func headers() throws {
        let rig = try SharedFolderRig()
        let lane = rig.lanes[1]
        var bytes = lane.bytes(FUSE.getattr, FUSE.root, littleEndian(0, 0 as UInt64))
        for count in [1, 4, 39] {
            let answer = try lane.exchange(
                Array(bytes.prefix(count)) + [UInt8](repeating: 0, count: 0))
            #expect(answer?.error == EINVAL)
        }
        bytes[0] += 1
        #expect(try lane.exchange(bytes)?.error == EINVAL)
        bytes[0] -= 1
        #expect(try lane.exchange(bytes)?.error == 0)
    }

    @Test("a reply that does not fit becomes an error, or nothing", arguments: [0, 1, 15, 16, 20])
    func room(size: Int) throws {
        let rig = try SharedFolderRig("xattr=on")
        try rig.folder.file("file")
        let lane = rig.lanes[1]
        for (opcode, body) in [
            (FUSE.lookup, FUSE.text("file")), (FUSE.getattr, littleEndian(0, 0 as UInt64)),
            (FUSE.create, littleEndian(2, 0o644, 0, 0 as UInt32) + FUSE.text("new")),
            (FUSE.opendir, littleEndian(0, 0 as UInt32)), (FUSE.statfs, []),
            (FUSE.mkdir, littleEndian(0o755, 0 as UInt32) + FUSE.text("folder")),
        ] {
            let answer = try lane.exchange(lane.bytes(opcode, FUSE.root, body), room: size)
            #expect(answer?.error == (size < 16 ? nil : EINVAL), "\(opcode)")
        }
        // Nothing is left that the driver does not know of.
        #expect(rig.fileSystem.nodes.count == 0)
        #expect(rig.fileSystem.handles.count == 0)
        #expect(readFolder(rig.folder.path) == ["file"])
    }

    @Test("a read without room for data gives none, and one without room for a header nothing")
    func readRoom() throws {
        let rig = try SharedFolderRig()
        try rig.folder.file("file", [1, 2, 3])
        let node = try rig.node("file")
        let handle = try rig.open(node, O_RDONLY)
        #expect(try rig.read(node, handle, at: 0, 9, room: 0).bytes.isEmpty)
        let lane = rig.lanes[1]
        let body =
            littleEndian(handle, 0) + littleEndian(9, 0) + littleEndian(0 as UInt64)
            + littleEndian(0, 0 as UInt32)
        #expect(try lane.exchange(lane.bytes(FUSE.read, node, body), room: 15) == nil)
    }

    @Test("random requests are answered, and leave nothing outside the folder changed")
    func random() throws {
        let rig = try SharedFolderRig("xattr=on")
        try rig.folder.file("file", [1])
        var random = SeededGenerator(11)
        let lane = rig.lanes[1]
        var numbers: [UInt64] = [0, 1, 2, .max, 1 << 32, 1 << 32 | 1]
        for _ in 0..<3000 {
            let opcode = FUSE.all.randomElement(using: &random) ?? 1
            var body: [UInt8] = []
            for _ in 0..<Int.random(in: 0..<8, using: &random) {
                switch Int.random(in: 0..<3, using: &random) {
                case 0: body += littleEndian(numbers.randomElement(using: &random) ?? 0)
                case 1:
                    body += FUSE.text(
                        ["a", "b", "file", "..", "a/b"].randomElement(using: &random) ?? "")
                default: body += littleEndian(UInt64.random(in: 0..<5000, using: &random))
                }
            }
            let node = numbers.randomElement(using: &random) ?? 1
            let answer = try lane.exchange(
                lane.bytes(opcode, node, body),
                room: [0, 16, 200, 70000].randomElement(using: &random) ?? 0)
            if let answer, answer.error == 0, answer.bytes.count >= 8 {
                numbers.append(answer[0, UInt64.self])
                if numbers.count > 40 { numbers.remove(at: 6) }
            }
        }
        #expect(try rig.begin().error == 0)
        #expect(try rig.lookUp("file").error != EINVAL)
    }

    @Test("queues that take the same files from each other stay correct", .timeLimit(.minutes(2)))
    func parallel() throws {
        let rig = try SharedFolderRig(queues: 4)
        for index in 0..<4 { try rig.folder.file("file\(index)", [UInt8(index)]) }
        let failures = Atomic(0)
        // SAFETY: each thread uses a lane of its own, and the test waits for all of them.
        nonisolated(unsafe) let lanes = rig.lanes
        let threads = try (1...4).map { number in
            try Thread(name: "driver") {
                let lane = unsafe lanes[number]
                var random = SeededGenerator(UInt64(number))
                for _ in 0..<1500 {
                    let index = Int.random(in: 0..<4, using: &random)
                    if !Self.visit(lane, index) { failures.add(1, ordering: .relaxed) }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.load(ordering: .relaxed) == 0)
        #expect(rig.fileSystem.nodes.count == 0)
        #expect(rig.fileSystem.handles.count == 0)
    }

    /// Looks a file up, reads it and gives everything back.
    /// - Returns: whether it was that file.
    private static func visit(_ lane: SharedFolderRig.Lane, _ index: Int) -> Bool {
        func call(_ opcode: UInt32, _ node: UInt64, _ body: [UInt8], room: Int = 256) -> Answer? {
            (try? lane.exchange(lane.bytes(opcode, node, body), room: room)).flatMap { $0 }
        }
        guard let entry = call(FUSE.lookup, FUSE.root, FUSE.text("file\(index)")),
            entry.error == 0,
            let opened = call(FUSE.open, entry.nodeID, littleEndian(0, 0 as UInt32)),
            opened.error == 0
        else { return false }
        let handle = opened[0, UInt64.self]
        let body =
            littleEndian(handle, 0) + littleEndian(9, 0) + littleEndian(0 as UInt64)
            + littleEndian(0, 0 as UInt32)
        let read = call(FUSE.read, entry.nodeID, body)
        _ = call(FUSE.release, entry.nodeID, littleEndian(handle, 0, 0))
        _ = call(FUSE.forget, entry.nodeID, littleEndian(1 as UInt64), room: 0)
        return read?.bytes == [UInt8(index)]
    }
}
