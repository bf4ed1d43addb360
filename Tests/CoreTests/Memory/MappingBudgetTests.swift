import Core
import Glibc
import TestSupport
import Testing

@Suite("The mappings that windows may take")
struct MappingBudgetTests {
    private let file: SharedFD

    init() throws { file = try unnamedFile(size: 1 << 20) }

    private func show(_ window: SharedWindow, _ page: UInt64) throws {
        try window.map(file.rawValue, from: 0, at: page << 12, size: 0x1000, isWritable: true)
    }

    /// How many mappings the process has for a window.
    private func mappings(of window: SharedWindow) throws -> Int {
        let start = unsafe UInt64(UInt(bitPattern: window.base))
        return try readFile("/proc/self/maps").split(separator: UInt8(ascii: "\n")).count { line in
            let ends = String(decoding: line, as: UTF8.self).prefix { $0 != " " }.split(
                separator: "-")
            guard let low = UInt64(ends[0], radix: 16), let high = UInt64(ends[1], radix: 16)
            else { return false }
            return low < start + window.size && high > start
        }
    }

    @Test("are shared by all windows")
    func shared() throws {
        let budget = MappingBudget(12)
        let (first, second) = (
            try SharedWindow(size: 1 << 20, budget: budget),
            try SharedWindow(size: 1 << 20, budget: budget)
        )
        // 9 mappings: 4 pieces and what is around them.
        for page in [1, 3, 5, 7] as [UInt64] { try show(first, page) }
        try show(second, 1)
        let full = WindowError.noMappings(limit: 12)
        #expect(throws: full) { try show(second, 3) }
        #expect(second.pieceCount == 1)
        // One beside the other takes none, with nothing left between them.
        try show(first, 1)
        try show(first, 2)
        try first.clear()
        for page in [3, 5, 7] as [UInt64] { try show(second, page) }
        try show(first, 9)
        #expect(throws: full) { try show(first, 11) }
    }

    @Test("are given back by a window that goes")
    func end() throws {
        let budget = MappingBudget(10)
        for _ in 0..<5 {
            let window = try SharedWindow(size: 1 << 20, budget: budget)
            for page in [1, 3, 5] as [UInt64] { try show(window, page) }
        }
        let windows = try (0..<10).map { _ in try SharedWindow(size: 4096, budget: budget) }
        #expect(windows.count == 10)
        #expect(throws: SystemError.self) { try SharedWindow(size: 4096, budget: budget) }
    }

    @Test("are given back where a file cannot be mapped")
    func failures() throws {
        let budget = MappingBudget(5)
        let window = try SharedWindow(size: 1 << 20, budget: budget)
        // SAFETY: the path lives for the call.
        let readable = try SharedFD(
            owning: checking("open", unsafe open("/proc/self/exe", O_RDONLY)))
        for _ in 0..<10 {
            #expect(throws: WindowError.system(SystemError("mmap", errno: EACCES))) {
                try window.map(
                    readable.rawValue, from: 0, at: 0x1000, size: 0x1000, isWritable: true)
            }
        }
        for page in [1, 3] as [UInt64] { try show(window, page) }
    }

    @Test("are enough for lost pages too, or all of the window is emptied")
    func lostPages() throws {
        let window = try SharedWindow(size: 1 << 20, budget: MappingBudget(6))
        try window.map(file.rawValue, from: 0, at: 0, size: 1 << 20, isWritable: true)
        var byte: UInt8 = 5
        #expect(unsafe pwrite(file.rawValue, &byte, 1, 0) == 1)
        #expect(ftruncate(file.rawValue, 0x1000) == 0)
        for page in [2, 4] {
            #expect(unsafe window.base.load(fromByteOffset: page << 12, as: UInt8.self) == 0)
        }
        #expect(window.lost == (pages: 2, blocks: 0))
        #expect(unsafe window.base.load(as: UInt8.self) == 5)
        #expect(unsafe window.base.load(fromByteOffset: 6 << 12, as: UInt8.self) == 0)
        #expect(unsafe window.base.load(as: UInt8.self) == 0)
        #expect(window.lost == (pages: 0, blocks: 0))
    }

    /// A guest writes beside what it has shown and taken away, so that what is empty would be of many
    /// mappings that do not become one again.
    @Test("are as many as the process has, whatever a guest does", arguments: [1, 2, 3, 4])
    func counts(seed: UInt64) throws {
        let budget = MappingBudget(300)
        let window = try SharedWindow(size: 1 << 20, budget: budget)
        var random = SeededGenerator(seed)
        let short = try unnamedFile(size: 0x1000)
        for step in 0..<3000 {
            let page = UInt64.random(in: 0..<256, using: &random)
            let size = UInt64.random(in: 1...min(8, 256 - page), using: &random) << 12
            do {
                switch UInt8.random(in: 0..<8, using: &random) {
                case 0...2:
                    try window.map(
                        file.rawValue, from: page << 12, at: page << 12, size: size,
                        isWritable: false)
                case 3:
                    try window.map(
                        short.rawValue, from: 0, at: page << 12, size: size, isWritable: true)
                case 4, 5: try window.unmap(at: page << 12, size: size)
                default:
                    unsafe window.base.storeBytes(
                        of: 1, toByteOffset: Int(page) << 12, as: UInt8.self)
                }
            } catch WindowError.noMappings {}
            if step % 50 == 0 { #expect(try mappings(of: window) <= budget.used) }
        }
        #expect(budget.used <= 300)
    }
}
