import CLinux
import Core
import Glibc
import Testing

@testable import TCG

/// A file that tests read what was written to.
struct RecordFile {
    private let fd: SharedFD
    let file: CodeFile

    init() throws {
        fd = SharedFD(owning: try checking("memfd_create", unsafe clinux_memfd_create("record", 0)))
        file = CodeFile(fd, path: "record")
    }

    var lines: [String] {
        get throws {
            let size = lseek(fd.rawValue, 0, SEEK_END)
            let bytes = try fd.read(size, at: 0)
            return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
        }
    }
}

/// What Apus's own CPU tells others about its code.
@Suite("Records of translated code")
struct CodeRecordTests {
    /// A loop, which runs often enough to be translated.
    private static let program: [UInt8] = [
        0xB9, 0x64, 0x00, 0x00, 0x00,  // 00: mov ecx, 100
        0x01, 0x0C, 0x25, 0x00, 0x90, 0x00, 0x00,  // 05: again: add [9000], ecx
        0xFF, 0xC9, 0x75, 0xF5, 0xF4,  // 0C: dec ecx; jnz again; hlt
    ]

    @Test("perf's map has a line for each piece of code, with the guest's address and mode")
    func perfMap() throws {
        let record = try RecordFile()
        let machine = try BareMachine.running(
            Self.program, files: TCGFiles(perfMap: record.file))
        defer { withExtendedLifetime(machine) {} }
        machine.runUntilHalt()
        let lines = try record.lines.map { $0.split(separator: " ", maxSplits: 2) }
        #expect(lines.allSatisfy { $0.count == 3 })
        machine.cpu.rip = BareMachine.code + 5
        let cache = try #require(machine.cpu.codeCache)
        let block = try machine.cpu.findBlock(cache, single: false)
        for isRare in [false, true] {
            let code = unsafe try #require(cache.translator).code(of: block, isRare: isRare)
            let start = String(UInt(bitPattern: code.baseAddress), radix: 16)
            let line = try #require(lines.last { $0[0] == start })
            #expect(line[1] == String(code.count, radix: 16))
            #expect(line[2].hasPrefix("guest:5005 kernel"))
            #expect(line[2].hasSuffix(" rare") == isRare)
        }
        #expect(lines.contains { $0[2] == "apus:enter" })
    }

    /// The bytes of listed pieces of a kind, by operation.
    private func pieces(_ lines: [String], _ kind: String) -> [(operation: String, bytes: [UInt8])]
    {
        lines.map { $0.split(separator: " ").map(String.init) }.filter { $0[0] == kind }.map {
            ($0[1], $0[3...].compactMap { UInt8($0, radix: 16) })
        }
    }

    @Test("a listing has all of a block's code, and says which operation each piece is for")
    func listing() throws {
        let record = try RecordFile()
        let machine = try BareMachine.running(
            Self.program, files: TCGFiles(listing: record.file))
        defer { withExtendedLifetime(machine) {} }
        machine.runUntilHalt()
        let all = try record.lines
        let start = try #require(all.lastIndex { $0.hasPrefix("block 0000000000005005 kernel") })
        let end = all[(start + 1)...].firstIndex { $0.hasPrefix("block ") } ?? all.count
        let lines = Array(all[start..<end])
        #expect(lines.contains("guest 0 0000000000005005 01 0c 25 00 90 00 00"))
        #expect(lines.contains("guest 1 000000000000500c ff c9"))
        #expect(lines.contains("guest 2 000000000000500e 75 f5"))
        machine.cpu.rip = BareMachine.code + 5
        let cache = try #require(machine.cpu.codeCache)
        let translator = try #require(cache.translator)
        let block = try machine.cpu.findBlock(cache, single: false)
        let hot = pieces(lines, "host")
        let code = unsafe [UInt8](translator.code(of: block))
        // Links have been made since, in jumps.
        #expect(hot.flatMap(\.bytes).count == code.count)
        #expect(hot.first?.operation == "entry")
        #expect(hot.first?.bytes == Array(code[..<(hot.first?.bytes.count ?? 0)]))
        // dec ecx is itself.
        let second = hot.first { $0.operation == "1" }?.bytes ?? []
        #expect(second.suffix(2) == [0xFF, 0xC9], "\(lines)")
        let rare = pieces(lines, "rare")
        let size = unsafe translator.code(of: block, isRare: true).count
        #expect(rare.flatMap(\.bytes).count == size)
        #expect(Set(rare.map(\.operation)).isSuperset(of: ["entry", "0", "2", "data"]))
    }

    @Test("which code is for which operation is kept only if somebody wants it")
    func marks() throws {
        for (tier, isKept) in [(TCGOptions.Tier.translator, false), (.both, true)] {
            let machine = try BareMachine.running(Self.program, tier: tier)
            defer { withExtendedLifetime(machine) {} }
            machine.runUntilHalt()
            machine.cpu.rip = BareMachine.code + 5
            let cache = try #require(machine.cpu.codeCache)
            let block = try machine.cpu.findBlock(cache, single: false)
            let marks = try #require(cache.translator).marks(of: block)
            #expect(marks.isEmpty != isKept)
        }
    }

    @Test("where no map is wanted, code has a name of its own")
    func name() throws {
        let maps = { try String(decoding: Self.read("/proc/self/maps"), as: UTF8.self) }
        let machine = try BareMachine.running(Self.program)
        machine.runUntilHalt()
        let cache = try #require(machine.cpu.codeCache)
        let address = try #require(cache.translator).arena.address(0)
        let line = try maps().split(separator: "\n").first {
            $0.hasPrefix(String(address, radix: 16) + "-")
        }
        #expect(line?.contains(" r-xs ") == true)
        #expect(line?.contains("/memfd:apus-tcg") == true)
        withExtendedLifetime(machine) {}
    }

    private static func read(_ path: String) throws -> [UInt8] {
        let fd = OwnedFD(owning: try checking("open", unsafe clinux_open(path, O_RDONLY, 0)))
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = unsafe Glibc.read(fd.rawValue, &chunk, chunk.count)
            if count <= 0 { return bytes }
            bytes += chunk[..<count]
        }
    }

    @Test("a file that takes nothing stops nobody")
    func fullFile() throws {
        let fd = try checking("open", unsafe clinux_open("/dev/full", O_WRONLY, 0))
        let file = CodeFile(SharedFD(owning: fd), path: "/dev/full")
        let machine = try BareMachine.running(Self.program, files: TCGFiles(perfMap: file))
        machine.runUntilHalt()
        #expect(machine.cpu.fields.isHalted)
        #expect(machine.get(0x9000, as: UInt32.self) == 5050)
    }
}
