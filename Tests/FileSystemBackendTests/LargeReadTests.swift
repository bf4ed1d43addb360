import Core
import Glibc
import TestSupport
import Testing

@testable import FileSystemBackend

@Suite("Shared folder: reads of much, from memory") struct LargeReadTests {
    private static let content = (0..<(3 << 20) + 100).map {
        UInt8(truncatingIfNeeded: $0 ^ $0 >> 9)
    }
    private static let much = FileWindow.smallestRead + 5000

    private let rig: SharedFolderRig
    private let node: UInt64
    private let handle: UInt64

    init() throws {
        rig = try SharedFolderRig(in: "/dev/shm")
        try rig.folder.file("file", Self.content)
        node = try rig.node("file")
        handle = try rig.open(node, O_RDWR)
    }

    private func read(at offset: Int, cuts: [Int] = []) throws -> [UInt8] {
        let answer = try rig.read(node, handle, at: UInt64(offset), Self.much, cuts: cuts)
        try #require(answer.error == 0)
        return answer.bytes
    }

    @Test("they are what the file holds, wherever they are and however they are cut")
    func whole() throws {
        let content = Self.content
        for offset in [0, 1, 4095, 1 << 20, content.count - Self.much] {
            #expect(try read(at: offset) == Array(content[offset..<offset + Self.much]))
        }
        #expect(try read(at: 7, cuts: [17, 5000, 70_000]) == Array(content[7..<7 + Self.much]))
        let end = content.count - 9000
        #expect(try read(at: end) == Array(content[end...]))
        #expect(try read(at: content.count).isEmpty)
        #expect(try read(at: content.count + 1).isEmpty)
    }

    @Test("they see what was written, cut off and added meanwhile")
    func changed() throws {
        var content = Self.content
        #expect(try read(at: 0) == Array(content[..<Self.much]))
        #expect(try rig.write(node, handle, at: 1000, [1, 2, 3]).error == 0)
        content.replaceSubrange(1000..<1003, with: [1, 2, 3])
        #expect(try read(at: 0) == Array(content[..<Self.much]))
        // By the host.
        #expect(unsafe truncate(rig.folder["file"], 100_001) == 0)
        #expect(try read(at: 0) == Array(content[..<100_001]))
        #expect(unsafe truncate(rig.folder["file"], 1 << 20) == 0)
        #expect(
            try read(at: 100_000) == [content[100_000]]
                + [UInt8](repeating: 0, count: Self.much - 1))
    }

    @Test("what the host has in memory is copied, and what it takes away is noticed")
    func taken() throws {
        let path = rig.folder["file"]
        let file = OwnedFD(owning: unsafe open(path, O_RDONLY))
        #expect(FileWindow.suits(file.rawValue))
        let window = try #require(
            FileWindow(file.rawValue, around: 5, in: rig.fileSystem.windows))
        var copy: [UInt8] = []
        let isThere = unsafe window.copy(4095, Self.much) { unsafe copy = Array($0) }
        #expect(isThere)
        #expect(copy == Array(Self.content[4095..<4095 + Self.much]))
        #expect(window.covers(64 << 20 - 1) && !window.covers(64 << 20))
        // What is behind the end is not there.
        let isBehind = unsafe window.copy(UInt64(Self.content.count - 10), 10_000) { _ in copy = []
        }
        #expect(!isBehind && !copy.isEmpty)
        // While it is copied.
        var sum = 0
        let isWhole = unsafe window.copy(0, Self.much) { bytes in
            _ = unsafe truncate(path, 0)
            sum = unsafe bytes.reduce(0) { $0 + Int($1) }
        }
        #expect(!isWhole && sum == 0)
        #expect(window.isLost)
    }

    @Test("there are only so many windows")
    func bounded() throws {
        let file = OwnedFD(owning: unsafe open(rig.folder["file"], O_RDONLY))
        let pool = rig.fileSystem.windows
        var windows: [FileWindow] = []
        while let window = FileWindow(file.rawValue, around: 0, in: pool) {
            windows.append(window)
            try #require(windows.count <= FileWindow.Pool.limit)
        }
        // Others are read as ever.
        #expect(try read(at: 0) == Array(Self.content[..<Self.much]))
        windows = []
        #expect(FileWindow(file.rawValue, around: 0, in: pool) != nil)
    }
}
