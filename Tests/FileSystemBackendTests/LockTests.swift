import CLinux
import Core
import Glibc
import TestSupport
import Testing

@testable import FileSystemBackend

@Suite("Shared folder: locks") struct LockTests {
    private static let read: UInt32 = 0
    private static let write: UInt32 = 1
    private static let unlock: UInt32 = 2
    private static let end = UInt64(Int64.max)

    private let rig: SharedFolderRig
    private let node: UInt64
    private let handle: UInt64

    init() throws {
        rig = try SharedFolderRig("posix-lock=on,flock=on", queues: 2, isKept: true)
        try rig.folder.file("file", [1, 2, 3])
        node = try rig.node("file")
        handle = try rig.open(node, O_RDWR)
    }

    private func body(
        _ type: UInt32, owner: UInt64, _ range: ClosedRange<UInt64> = 0...end, flags: UInt32 = 0,
        handle: UInt64? = nil
    ) -> [UInt8] {
        littleEndian(handle ?? self.handle, owner) + littleEndian(range.lowerBound)
            + littleEndian(range.upperBound) + littleEndian(type, UInt32(100 + owner))
            + littleEndian(flags, 0)
    }

    private func set(
        _ type: UInt32, owner: UInt64, _ range: ClosedRange<UInt64> = 0...end
    ) throws -> Int32 {
        try rig.call(FUSE.setlk, node, body(type, owner: owner, range)).error
    }

    private func flush(owner: UInt64) throws {
        let body = littleEndian(handle, 0) + littleEndian(owner)
        #expect(try rig.call(FUSE.flush, node, body).error == 0)
    }

    /// A request that waits, on the second queue.
    private func wait(
        _ type: UInt32, owner: UInt64, _ range: ClosedRange<UInt64> = 0...end,
        flags: UInt32 = 0, handle: UInt64? = nil
    ) throws -> (bytes: [UInt8], reply: DriverBuffer) {
        let bytes = rig.lanes[2].bytes(
            FUSE.setlkw, node, body(type, owner: owner, range, flags: flags, handle: handle))
        let reply = try rig.lanes[2].post(bytes)
        #expect(try rig.lanes[2].answer(to: reply, milliseconds: 60) == nil)
        return (bytes, reply)
    }

    /// What another program on the host would meet.
    private func hostSees(_ type: Int16, at offset: Int) -> Int16 {
        let file = unsafe open(rig.folder["file"], O_RDWR)
        defer { close(file) }
        var lock = clinux_lock(start: Int64(offset), length: 1, type: Int32(type))
        #expect(unsafe clinux_find_lock(file, &lock) == 0)
        return Int16(lock.type)
    }

    @Test("users keep each other out, by ranges, and the host's programs as well")
    func ranges() throws {
        #expect(try set(Self.write, owner: 1, 10...19) == 0)
        #expect(try set(Self.write, owner: 2, 19...30) == EAGAIN)
        #expect(try set(Self.write, owner: 2, 20...30) == 0)
        #expect(try set(Self.read, owner: 1, 20...20) == EAGAIN)
        #expect(hostSees(Int16(F_RDLCK), at: 19) == Int16(F_WRLCK))
        #expect(hostSees(Int16(F_RDLCK), at: 9) == Int16(F_UNLCK))
        #expect(try set(Self.read, owner: 1, 10...14) == 0)
        #expect(try set(Self.read, owner: 2, 10...14) == 0)
        #expect(try set(Self.unlock, owner: 1, 15...19) == 0)
        #expect(try set(Self.write, owner: 2, 15...40) == 0)
        #expect(hostSees(Int16(F_WRLCK), at: 12) == Int16(F_RDLCK))
    }

    @Test("who asks is told what is in the way, and whose it is")
    func found() throws {
        #expect(try set(Self.write, owner: 1, 10...19) == 0)
        #expect(try set(Self.read, owner: 2, 30...Self.end) == 0)
        func find(_ type: UInt32, _ range: ClosedRange<UInt64>) throws -> [UInt64] {
            let answer = try rig.call(FUSE.getlk, node, body(type, owner: 3, range))
            try #require(answer.error == 0)
            return [answer[0, UInt64.self], answer[8, UInt64.self]]
                + [16, 20].map { UInt64(answer[$0, UInt32.self]) }
        }
        #expect(try find(Self.read, 0...15) == [10, 19, 1, 101])
        #expect(try find(Self.write, 25...40) == [30, Self.end, 0, 102])
        #expect(try find(Self.read, 25...40) == [0, 0, 2, 0])
        #expect(try find(Self.write, 20...29) == [0, 0, 2, 0])
    }

    @Test("a user who closes the file has no locks any more")
    func closed() throws {
        let known = rig.fileSystem.handles.count
        #expect(try set(Self.write, owner: 1) == 0)
        #expect(rig.fileSystem.handles.count == known + 1)
        try flush(owner: 2)
        #expect(try set(Self.write, owner: 2) == EAGAIN)
        try flush(owner: 1)
        #expect(hostSees(Int16(F_WRLCK), at: 0) == Int16(F_UNLCK))
        #expect(rig.fileSystem.handles.count == known + 1, "of the one who asked in vain")
        try flush(owner: 2)
        #expect(rig.fileSystem.handles.count == known)
    }

    @Test(
        "locks of an open file go with it, of which drivers say nothing more",
        arguments: [false, true])
    func ofOpenFile(isReplaced: Bool) throws {
        let second = try rig.open(node, O_RDWR)
        let body = body(Self.write, owner: 9, handle: second)
        #expect(try rig.call(FUSE.setlk, node, body).error == 0)
        #expect(try rig.call(FUSE.release, node, littleEndian(handle, 0, 0)).error == 0)
        #expect(hostSees(Int16(F_WRLCK), at: 0) == Int16(F_WRLCK))
        if isReplaced { try rig.replace() }
        #expect(try rig.call(FUSE.release, node, littleEndian(second, 0, 0)).error == 0)
        #expect(rig.fileSystem.handles.count == 0)
        // What is killed closes its files, but not in this test.
        if !isReplaced { #expect(hostSees(Int16(F_WRLCK), at: 0) == Int16(F_UNLCK)) }
    }

    @Test("who waits holds up nobody, and gets the lock when it is free", arguments: [0, 1, 2])
    func waited(way: Int) throws {
        #expect(try set(Self.write, owner: 1) == 0)
        let waiting = try wait(Self.write, owner: 2)
        // The same queue goes on.
        let lane = rig.lanes[2]
        #expect(try lane.exchange(lane.bytes(FUSE.getattr, node, littleEndian(0, 0)))?.error == 0)
        let began = Clock.monotonic()
        switch way {
        case 0: #expect(try set(Self.unlock, owner: 1) == 0)
        case 1: try flush(owner: 1)
        default: #expect(try rig.call(FUSE.destroy, 0).error == 0)
        }
        #expect(try lane.answer(to: waiting.reply) == (way == 2 ? EBADF : 0))
        #expect(Clock.monotonic() - began < 2_000_000_000)
        if way != 2 { #expect(hostSees(Int16(F_RDLCK), at: 5) == Int16(F_WRLCK)) }
    }

    @Test("who waits for a program of the host gets the lock as well")
    func waitedForHost() throws {
        let file = unsafe open(rig.folder["file"], O_RDWR)
        var lock = clinux_lock(start: 0, length: 0, type: Int32(F_WRLCK))
        #expect(unsafe clinux_set_lock(file, &lock) == 0)
        let waiting = try wait(Self.read, owner: 1)
        close(file)
        #expect(try rig.lanes[2].answer(to: waiting.reply) == 0)
    }

    @Test("who waits can be interrupted")
    func interrupted() throws {
        #expect(try set(Self.write, owner: 1) == 0)
        let waiting = try wait(Self.write, owner: 2)
        let lane = rig.lanes[0]
        let unknown = lane.bytes(FUSE.interrupt, 0, littleEndian(987_654 as UInt64))
        #expect(try lane.exchange(unknown)?.error == EAGAIN)
        let interrupt = lane.bytes(FUSE.interrupt, 0, Array(waiting.bytes[8..<16]))
        #expect(try lane.exchange(interrupt) == nil)
        #expect(try rig.lanes[2].answer(to: waiting.reply) == EINTR)
        #expect(try set(Self.unlock, owner: 1) == 0)
        #expect(hostSees(Int16(F_WRLCK), at: 0) == Int16(F_UNLCK))
    }

    @Test("locks of whole files belong to what is open, and go with it")
    func wholeFiles() throws {
        let second = try rig.open(node, O_RDONLY)
        func flock(_ type: UInt32, _ handle: UInt64) throws -> Int32 {
            try rig.call(FUSE.setlk, node, body(type, owner: 1, flags: 1, handle: handle)).error
        }
        #expect(try flock(Self.write, handle) == 0)
        #expect(try flock(Self.read, second) == EAGAIN)
        // They have nothing to do with record locks.
        #expect(try set(Self.write, owner: 5) == 0)
        let file = unsafe open(rig.folder["file"], O_RDONLY)
        defer { close(file) }
        #expect(clinux_lock_open_file(file, LOCK_SH | LOCK_NB) == -EAGAIN)
        let waiting = try wait(Self.read, owner: 1, flags: 1, handle: second)
        #expect(try rig.call(FUSE.release, node, littleEndian(handle, 0, 0)).error == 0)
        #expect(try rig.lanes[2].answer(to: waiting.reply) == 0)
        #expect(clinux_lock_open_file(file, LOCK_EX | LOCK_NB) == -EAGAIN)
        #expect(try flock(Self.unlock, second) == 0)
        #expect(clinux_lock_open_file(file, LOCK_EX | LOCK_NB) == 0)
    }

    @Test("who waits for a file that is closed meanwhile is told so")
    func lost() throws {
        let second = try rig.open(node, O_RDONLY)
        #expect(try rig.call(FUSE.setlk, node, body(Self.write, owner: 1, flags: 1)).error == 0)
        let waiting = try wait(Self.read, owner: 1, flags: 1, handle: second)
        #expect(try rig.call(FUSE.release, node, littleEndian(second, 0, 0)).error == 0)
        #expect(try rig.lanes[2].answer(to: waiting.reply) == EBADF)
    }

    @Test("the process after one that was killed has all locks")
    func killed() throws {
        #expect(try set(Self.write, owner: 1, 0...9) == 0)
        let waiting = try wait(Self.write, owner: 2)
        try rig.replace()
        // Nobody has noted what was in flight.
        #expect(try rig.lanes[2].answer(to: waiting.reply) == EAGAIN)
        #expect(try set(Self.write, owner: 2, 9...9) == EAGAIN)
        let answer = try rig.call(FUSE.getlk, node, body(Self.write, owner: 2, 9...9))
        #expect(answer[20, UInt32.self] == 101)
        #expect(try set(Self.unlock, owner: 1) == 0)
        #expect(try set(Self.write, owner: 2, 9...9) == 0)
    }

    @Test("what makes no sense is refused")
    func refused() throws {
        #expect(try set(3, owner: 1) == EINVAL)
        #expect(try set(Self.write, owner: 1, 0...(1 << 63)) == EINVAL)
        let backwards =
            littleEndian(handle, 1) + littleEndian(9 as UInt64, 8) + littleEndian(1, 0, 0, 0)
        #expect(try rig.call(FUSE.setlk, node, backwards).error == EINVAL)
        #expect(
            try rig.call(FUSE.getlk, node, body(Self.unlock, owner: 1)).error == EINVAL)
        #expect(
            try rig.call(FUSE.setlk, node, body(Self.write, owner: 1, handle: handle + 1)).error
                == EBADF)
        // What holds locks is nobody's to close.
        #expect(try set(Self.write, owner: 1) == 0)
        let count = rig.fileSystem.handles.count
        for slot in 0..<8 {
            let number = UInt64(1) << 32 | UInt64(slot)
            if number == handle { continue }
            #expect(try rig.call(FUSE.release, node, littleEndian(number, 0, 0)).error == 0)
        }
        #expect(rig.fileSystem.handles.count == count)
    }

    @Test("without the options there are no locks")
    func off() throws {
        let rig = try SharedFolderRig()
        #expect(try rig.begin()[12, UInt32.self] & (1 << 1 | 1 << 10) == 0)
        let made = try rig.create("file")
        let body = body(Self.write, owner: 1, handle: made[128, UInt64.self])
        for opcode in [FUSE.getlk, FUSE.setlk, FUSE.setlkw] {
            #expect(try rig.call(opcode, made.nodeID, body).error == ENOSYS)
        }
        let own = try self.rig.begin()[12, UInt32.self]
        #expect(own & (1 << 1 | 1 << 10) == 1 << 1 | 1 << 10)
    }

    @Test("users who would wait for each other for ever are told")
    func deadlock() throws {
        for owner in 1...3 as ClosedRange<UInt64> {
            #expect(try set(Self.write, owner: owner, owner...owner) == 0)
        }
        let first = try wait(Self.write, owner: 1, 2...2)
        let second = try wait(Self.write, owner: 2, 3...3)
        let ask = { (owner: UInt64, place: UInt64) in
            try rig.call(FUSE.setlkw, node, body(Self.write, owner: owner, place...place)).error
        }
        #expect(try ask(3, 1) == EDEADLK)
        #expect(try ask(3, 2) == EDEADLK)
        // Nobody has lost anything by that, and who waits gets what becomes free.
        #expect(try set(Self.unlock, owner: 3, 3...3) == 0)
        #expect(try rig.lanes[2].answer(to: second.reply) == 0)
        #expect(try set(Self.unlock, owner: 2, 2...3) == 0)
        #expect(try rig.lanes[2].answer(to: first.reply) == 0)
        #expect(try ask(3, 3) == 0)
    }
}
