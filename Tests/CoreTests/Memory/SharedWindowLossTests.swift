import CLinux
import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@Suite("A window whose files become shorter")
struct SharedWindowLossTests {
    private static let block: UInt64 = 2 << 20

    /// A file whose pages all begin with a byte.
    private static func file(_ byte: UInt8, size: UInt64) throws -> SharedFD {
        let file = try unnamedFile(size: size)
        var byte = byte
        for page in 0..<off_t(size) / 4096 {
            // SAFETY: the byte lives for the call.
            #expect(unsafe pwrite(file.rawValue, &byte, 1, page * 4096) == 1)
        }
        return file
    }

    private static func byte(_ window: SharedWindow, _ offset: UInt64) -> UInt8 {
        unsafe window.base.load(fromByteOffset: Int(offset), as: UInt8.self)
    }

    @Test("pages that a file has no more become zeroes, and others stay")
    func lostPages() throws {
        let window = try SharedWindow(size: 1 << 20)
        let file = try Self.file(3, size: 0x4000)
        try window.map(file.rawValue, from: 0, at: 0, size: 0x4000, isWritable: true)
        #expect(ftruncate(file.rawValue, 0x2000) == 0)
        #expect(Self.byte(window, 0x1000) == 3)
        #expect(Self.byte(window, 0x2000) == 0)
        #expect(window.lossEvent.drain())
        #expect(window.touch(0x2000) == .reached)
        #expect(window.touch(0x3000) == .mended)
        #expect(window.touch(window.size) == .outside)
        #expect(window.lost.pages == 2)
        unsafe window.base.storeBytes(of: 9, toByteOffset: 0x2000, as: UInt8.self)
        unsafe window.base.storeBytes(of: 8, toByteOffset: 0x1000, as: UInt8.self)
        var byte: UInt8 = 0
        #expect(unsafe pread(file.rawValue, &byte, 1, 0x1000) == 1)
        #expect(byte == 8)
        #expect(unsafe pread(file.rawValue, &byte, 1, 0x2000) == 0)
        // What is mapped anew is there.
        #expect(ftruncate(file.rawValue, 0x4000) == 0)
        #expect(Self.byte(window, 0x2000) == 9)
        try window.map(file.rawValue, from: 0, at: 0, size: 0x4000, isWritable: true)
        #expect(window.lost.pages == 0)
        #expect(Self.byte(window, 0x2000) == 0)
        unsafe window.base.storeBytes(of: 7, toByteOffset: 0x2000, as: UInt8.self)
        #expect(unsafe pread(file.rawValue, &byte, 1, 0x2000) == 1)
        #expect(byte == 7)
    }

    @Test("where very many pages are lost, 2 MiB are emptied at once, and nothing else")
    func manyLostPages() throws {
        let size = 3 * Self.block
        let window = try SharedWindow(size: 2 * size)
        let (short, other) = (try Self.file(1, size: size), try Self.file(2, size: size))
        try window.map(short.rawValue, from: 0, at: 0, size: size, isWritable: true)
        try window.map(other.rawValue, from: 0, at: size, size: size, isWritable: true)
        #expect(ftruncate(short.rawValue, 0x1000) == 0)
        // The first 2 MiB have 511 pages that are lost.
        for page in 1..<size / 4096 { #expect(Self.byte(window, page * 4096) == 0) }
        #expect(window.lost == (pages: 511, blocks: 2))
        #expect(Self.byte(window, 0) == 1)
        for page in 0..<size / 4096 { #expect(Self.byte(window, size + page * 4096) == 2) }
    }

    @Test("what is mapped or taken away there gives single pages back", arguments: [true, false])
    func givenBack(isMapped: Bool) throws {
        let window = try SharedWindow(size: 3 * Self.block)
        let short = try Self.file(1, size: 3 * Self.block)
        try window.map(short.rawValue, from: 0, at: 0, size: 3 * Self.block, isWritable: true)
        #expect(ftruncate(short.rawValue, 0x1000) == 0)
        for page in 1..<1024 as Range<UInt64> { #expect(Self.byte(window, page * 4096) == 0) }
        #expect(window.lost == (pages: 511, blocks: 1))
        if isMapped {
            try window.map(
                short.rawValue, from: 0, at: 0, size: 2 * Self.block, isWritable: true)
        } else {
            try window.unmap(at: 0, size: 2 * Self.block)
        }
        #expect(window.lost == (pages: 0, blocks: 0))
        let other = try Self.file(2, size: 0x2000)
        try window.map(
            other.rawValue, from: 0, at: 2 * Self.block, size: 0x2000, isWritable: true)
        #expect(ftruncate(other.rawValue, 0x1000) == 0)
        #expect(Self.byte(window, 2 * Self.block + 0x1000) == 0)
        #expect(Self.byte(window, 2 * Self.block) == 2)
        #expect(window.lost == (pages: 1, blocks: 0))
    }

    /// A processor may have met a page that was lost when something is mapped there.
    @Test("what is mapped while a page is being mended stays")
    func races() throws {
        let window = try SharedWindow(size: 1 << 20)
        let (empty, full) = (try Self.file(1, size: 0), try Self.file(2, size: 0x1000))
        let isDone = Atomic<Bool>(false)
        let looks = Atomic<UInt64>(0)
        let reader = try Thread(name: "test-reader") {
            while !isDone.load(ordering: .relaxed) {
                _ = Self.byte(window, 0x3000)
                looks.add(1, ordering: .releasing)
            }
        }
        var kept = 0
        var rounds = 0
        defer {
            isDone.store(true, ordering: .relaxed)
            reader.join()
            #expect(kept == rounds)
        }
        let end = Clock.monotonic() + 1_000_000_000
        while Clock.monotonic() < end {
            try window.map(empty.rawValue, from: 0, at: 0x3000, size: 0x1000, isWritable: true)
            // Until the reader is about there, in one way or another.
            for _ in 0..<rounds % 64 { clinux_pause() }
            try window.map(full.rawValue, from: 0, at: 0x3000, size: 0x1000, isWritable: true)
            let before = looks.load(ordering: .acquiring)
            while looks.load(ordering: .acquiring) &- before < 3 { clinux_pause() }
            rounds += 1
            if Self.byte(window, 0x3000) == 2 { kept += 1 }
        }
    }

    @Test("one thread's mended page is not mended again by another that met it too")
    func sharedFaults() throws {
        let window = try SharedWindow(size: 1 << 20)
        let empty = try Self.file(1, size: 0)
        let round = Atomic<Int>(0)
        let finished = Atomic<Int>(0)
        let rounds = 200
        // Both write to the same lost page, and each finds what it has written.
        let threads = try (1...2).map { number in
            try Thread(name: "test-writer") {
                var isKept = true
                for current in 1...rounds {
                    while round.load(ordering: .acquiring) < current { clinux_pause() }
                    let place = 0x3000 + number
                    unsafe window.base.storeBytes(
                        of: UInt8(number), toByteOffset: place, as: UInt8.self)
                    for _ in 0..<100 { clinux_pause() }
                    isKept = isKept && Self.byte(window, UInt64(place)) == UInt8(number)
                    finished.add(1, ordering: .releasing)
                }
                #expect(isKept)
            }
        }
        for current in 1...rounds {
            try window.map(empty.rawValue, from: 0, at: 0x3000, size: 0x1000, isWritable: true)
            round.store(current, ordering: .releasing)
            while finished.load(ordering: .acquiring) < 2 * current { clinux_pause() }
        }
        for thread in threads { thread.join() }
    }
}
