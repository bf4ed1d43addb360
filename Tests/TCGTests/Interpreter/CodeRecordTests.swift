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
