import CLinux
import Core
import Glibc
import TestSupport
import VhostUser

@testable import FileSystemBackend

/// Requests of a hostile driver to a shared folder in memory. Whatever it asks for, a file beside
/// the folder stays as it is, and at the end of the session nothing is held any more.
struct SharedFolderTarget: FuzzTarget {
    static let name = "fs"
    static let about = "requests to a shared folder"
    static let testCount = 600

    /// A file is looked up or made, and something is done with it.
    static let seeds: [[UInt8]] = (0..<all.count).map { number in
        FuzzSeed.make { seed in
            seed.choose(3, of: 8)
            for opcode in [0, 13, 30, number] {
                seed.choose(0, of: 16)
                seed.choose(opcode, of: all.count)
                seed.putZeroes(24)
            }
        }
    }

    /// Served requests, of which the first is LOOKUP.
    private static let all: [UInt32] =
        Array(1...6) + Array(8...18) + Array(20...30) + Array(34...36) + [38] + Array(42...47)
        + [48, 49, 50, 51, 52]
    private static let names = ["file", "a", "b", "link", "..", "a/b", ".", ""]

    private let parent: TestFolder
    private let share: String
    private let fileSystem: FileSystem
    private let device: FSDevice
    private let window: FuzzWindow
    private let scratch: ScratchMemory
    private let driver: DriverQueue
    private let kick: EventFD
    private let call: EventFD
    private let request: GuestAddress
    private let reply: GuestAddress
    /// Numbers that the device has given out.
    private var known: [UInt64] = []

    init() throws {
        parent = try TestFolder(in: "/dev/shm")
        try parent.file("outside", Array("outside".utf8))
        share = parent["share"]
        guard unsafe mkdir(share, 0o755) == 0 else { throw SystemError("mkdir", errno: errno) }
        let options = try FSOptions(
            FSOptions.schema.parse(
                "path=\(share),num-queues=1,xattr=on,cache-size=2M,security-label=on,"
                    + "xattrmap=:map::user.virtiofs.:"))
        fileSystem = try FileSystem(SharedFolder(options), options)
        device = FSDevice(options) { [fileSystem] in fileSystem }
        window = try FuzzWindow(size: options.cacheSize)
        device.useSharedMemory(window)
        scratch = try ScratchMemory(size: 1 << 20)
        let features = device.features & ~(VirtioFeature.packedRing | VirtioFeature.eventIndex)
        driver = DriverQueue(scratch, size: 64, features: features, tableSize: 16)
        request = scratch.allocate(1 << 17)
        reply = scratch.allocate(1 << 17)
        kick = try EventFD()
        call = try EventFD()
        try device.startQueue(1, driver.setup(scratch.memory, kick: kick, call: call))
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        for name in readFolder(share) { Self.remove("\(share)/\(name)") }
        _ = try parent.file("share/file", [1, 2, 3])
        known = [1, 0, .max, 1 << 32]
        try begin()
        var wasDone = false
        for _ in 0..<(1 + input.below(8)) where try perform(&input) { wasDone = true }
        try require(
            try readFile(parent["outside"]) == Array("outside".utf8), "a file outside is changed")
        try require(readFolder(parent.path).count == 2, "there is something outside")
        try require(
            window.memory.pieceCount == fileSystem.mappings?.all.count,
            "the window shows something else than the folder's process believes")
        _ = try exchange(header(38, 1, []), room: 16, cuts: [])
        try require(
            fileSystem.nodes.count == 0 && fileSystem.handles.count == 0
                && fileSystem.mappings?.all.isEmpty == true && window.memory.pieceCount == 0,
            "something is held")
        return wasDone
    }

    private func begin() throws {
        let body = littleEndian(7, 38, 0, UInt32.max) + [UInt8](repeating: 0xff, count: 48)
        guard try exchange(header(26, 0, body), room: 80, cuts: []) == 0 else {
            throw FuzzFailure("no session can be begun")
        }
    }

    private static func remove(_ path: String) {
        if unsafe unlink(path) == 0 { return }
        for name in readFolder(path) { remove("\(path)/\(name)") }
        unsafe rmdir(path)
    }

    private func header(_ opcode: UInt32, _ node: UInt64, _ body: [UInt8]) -> [UInt8] {
        littleEndian(UInt32(40 + body.count), opcode) + littleEndian(77, node)
            + littleEndian(0, 0, 1, 0 as UInt32) + body
    }

    /// - Returns: whether a request was met.
    private mutating func perform(_ input: inout FuzzInput) throws -> Bool {
        let isAny = input.rarely(16)
        let choice = input.pick(Self.all)
        let opcode = isAny ? input.number() : choice
        let node = number(&input)
        let body = body(opcode, &input)
        var bytes = header(opcode, node, body)
        if input.rarely(16) { bytes = Array(bytes.prefix(input.below(bytes.count + 1))) }
        if input.rarely(32), !bytes.isEmpty { bytes[input.below(bytes.count)] ^= input.byte() }
        let room = input.rarely(8) ? input.below(300) : 4096
        let cuts = input.rarely(4) ? (0..<input.below(4)).map { _ in input.below(200) } : []
        guard try exchange(bytes, room: room, cuts: cuts) == 0 else { return false }
        // A node or a handle, as a rule; behind an entry another one.
        for offset: UInt64 in [16, 16 + 128] where known.count < 16 {
            known.append(
                try scratch.memory.read(GuestAddress(reply.rawValue + offset), as: UInt64.self))
        }
        return true
    }

    /// Arguments as the request has them, more or less.
    private mutating func body(_ opcode: UInt32, _ input: inout FuzzInput) -> [UInt8] {
        if input.rarely(8) { return input.take(input.below(120)) }
        let name = Array(input.pick(Self.names).utf8) + [0]
        let other = Array(input.pick(["b", "a", "..", "c"]).utf8) + [0]
        let word = input.rarely(4) ? input.number() : UInt32(input.byte())
        let size = UInt64(input.number(UInt16.self))
        switch opcode {
        case 1, 10, 11, 24: return name
        case 6: return name + other + labels(&input)
        case 8: return littleEndian(0o100644 ^ word << 8, word, 0, 0) + name + labels(&input)
        case 9: return littleEndian(0o755, word) + name + labels(&input)
        case 12: return littleEndian(number(&input)) + name + other
        case 45: return littleEndian(number(&input)) + littleEndian(word, 0) + name + other
        case 13: return littleEndian(number(&input)) + name
        case 14, 27, 34: return littleEndian(word, 0)
        case 35, 51:
            return littleEndian(2 ^ word << 6, 0o644, 0, 0) + name + labels(&input)
        case 15, 28, 44:
            return littleEndian(number(&input), input.edge()) + littleEndian(UInt32(size), 0)
                + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32)
        case 16:
            let data = [UInt8](repeating: 7, count: Int(size & 0xfff))
            let count = input.rarely(8) ? word : UInt32(data.count)
            return littleEndian(number(&input), input.edge()) + littleEndian(count, 0)
                + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32) + data
        case 21:
            return littleEndian(UInt32(size & 0xff), word & 3, 0, 0) + Array("user.x".utf8)
                + [0] + [UInt8](repeating: 1, count: Int(size & 0xff))
        case 22: return littleEndian(UInt32(size), 0) + Array("user.x".utf8) + [0]
        // Sizes that do not fill the host's memory.
        case 48:
            return littleEndian(input.rarely(4) ? number(&input) : .max)
                + littleEndian(place(&input), place(&input), UInt64(input.byte() & 3))
                + littleEndian(place(&input))
        case 49:
            let count = input.below(4)
            return littleEndian(input.rarely(8) ? word : UInt32(count))
                + (0..<count).flatMap { _ in littleEndian(place(&input), place(&input)) }
        case 43: return littleEndian(number(&input), size, size) + littleEndian(word, 0)
        case 47:
            return littleEndian(number(&input), size, number(&input), number(&input), size, size)
                + littleEndian(0 as UInt64)
        case 4:
            return littleEndian(word, 0) + littleEndian(number(&input), size, 0, 0, size, 0)
                + littleEndian(0, word, 0, word, 0, 0, 0, 0)
        default: return littleEndian(number(&input), input.edge(), input.edge())
        }
    }

    /// A list of security labels, more or less as its header says.
    private func labels(_ input: inout FuzzInput) -> [UInt8] {
        let count = input.below(4)
        var list: [UInt8] = []
        for _ in 0..<count {
            let value = [UInt8](repeating: 1, count: input.below(20))
            let size = input.rarely(8) ? input.number() : UInt32(value.count)
            let name = input.rarely(8) ? "user.x" : "security.x"
            list += littleEndian(size, 0) + Array(name.utf8) + (input.rarely(8) ? [] : [0]) + value
            list += [UInt8](repeating: 0, count: (8 - list.count % 8) % 8)
        }
        let size = input.rarely(8) ? input.number() : UInt32(8 + list.count)
        return littleEndian(size, input.rarely(8) ? input.number() : UInt32(count)) + list
    }

    /// A place in the window, or the size of a part of it.
    private func place(_ input: inout FuzzInput) -> UInt64 {
        input.rarely(8) ? input.edge() : UInt64(input.byte() & 63) << 12
    }

    private mutating func number(_ input: inout FuzzInput) -> UInt64 {
        input.rarely(16) ? input.edge() : input.pick(known)
    }

    /// Sends a request.
    /// - Returns: the error; `nil` if there is no answer.
    private func exchange(_ bytes: [UInt8], room: Int, cuts: [Int]) throws -> Int32? {
        try scratch.memory.write(request, bytes)
        let readable = pieces(request, bytes.count, cuts)
        let writable = pieces(reply, room, cuts)
        if readable.isEmpty && writable.isEmpty { return nil }
        guard driver.add(readable: readable, writable: writable, style: .indirect) else {
            throw FuzzFailure("the ring is full")
        }
        if driver.publish() { kick.signal() }
        guard let used = try driver.awaitUsed(call) else {
            throw FuzzFailure("a request is never answered")
        }
        try require(Int(used.written) <= room, "\(used.written) of \(room) bytes are written")
        guard used.written > 0 else { return nil }
        try require(used.written >= 16, "an answer has \(used.written) bytes")
        let size = try scratch.memory.read(reply, as: UInt32.self)
        try require(size == used.written, "an answer of \(used.written) bytes says \(size)")
        let error = try scratch.memory.read(
            GuestAddress(reply.rawValue + 4), as: Int32.self)
        try require((-4095...0).contains(error), "the error is \(error)")
        return -error
    }

    private func pieces(_ start: GuestAddress, _ count: Int, _ cuts: [Int]) -> [DriverBuffer] {
        let places = [0] + cuts.filter { $0 > 0 && $0 < count }.sorted() + [count]
        return zip(places, places.dropFirst()).filter { $0 < $1 }.map {
            DriverBuffer(GuestAddress(start.rawValue + UInt64($0)), UInt32($1 - $0))
        }
    }
}

/// What a front end does with its window.
private final class FuzzWindow: SharedMemoryChannel {
    let memory: SharedWindow

    init(size: UInt64) throws { memory = try SharedWindow(size: size) }

    func map(_ piece: SharedMemoryPiece, of fd: SharedFD) throws(SharedMemoryError) {
        do {
            try memory.map(
                fd.rawValue, from: piece.fileOffset, at: piece.offset, size: piece.size,
                isWritable: piece.isWritable)
        } catch {
            throw .refused
        }
    }

    func unmap(_ piece: SharedMemoryPiece) throws(SharedMemoryError) {
        do { try memory.unmap(at: piece.offset, size: piece.size) } catch { throw .refused }
    }
}
