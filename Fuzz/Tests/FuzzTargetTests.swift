import Core
import Glibc
import TestSupport
import Testing

/// The short form of the fuzz targets: their seeds and random inputs made of them, the same in
/// every run.
@Suite("Fuzz targets", .serialized)
struct FuzzTargetTests {
    /// Each target has a process of its own, so that one that traps has a name, and an input.
    @Test("stand seeds and random inputs", arguments: FuzzTargets.all.map { $0.name })
    func inputs(name: String) async throws {
        let type = try #require(FuzzTargets.named(name))
        let path = "/tmp/apus-fuzz-\(name)-\(getpid())"
        await #expect(processExitsWith: .success) {
            [name, path = path as String] in
            guard let type = FuzzTargets.named(name) else { exit(1) }
            do { try Self.run(type, path) } catch { Issue.record("\(name): \(error)") }
        }
        guard unsafe access(path, F_OK) == 0 else { return }
        Issue.record("\(type.name) did not stand an input; again with ./fuzz \(name) \(path)")
    }

    /// The file at `path` is there while an input runs, and has it.
    private static func run(_ type: any FuzzTarget.Type, _ path: String) throws {
        Log.configure(program: "fuzz", level: .error)
        var target = try type.init()
        var random = RandomInputs(seeds: type.seeds)
        var reached = (seeds: 0, random: 0)
        let file = OwnedFD(owning: unsafe open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600))
        for number in 0..<type.seeds.count + type.testCount {
            let bytes = number < type.seeds.count ? type.seeds[number] : random.next()
            // SAFETY: the bytes live for the call.
            unsafe _ = pwrite(file.rawValue, bytes, bytes.count, 0)
            ftruncate(file.rawValue, bytes.count)
            var input = FuzzInput(bytes)
            guard try target.run(&input) else { continue }
            if number < type.seeds.count { reached.seeds += 1 } else { reached.random += 1 }
        }
        unsafe unlink(path)
        // Most seeds are right, and some of what is made of them.
        try require(
            reached.seeds * 2 > type.seeds.count && reached.random * 50 > type.testCount,
            "only \(reached.seeds) seeds and \(reached.random) others got past the first checks")
    }
}

/// Seeds with some changes, and now and then something else altogether.
private struct RandomInputs {
    private let seeds: [[UInt8]]
    private var random = SeededGenerator(1)
    private static let edges: [UInt8] = [0, 1, 2, 7, 8, 0x0f, 0x10, 0x1f, 0x40, 0x7f, 0x80, 0xff]

    init(seeds: [[UInt8]]) { self.seeds = seeds }

    private mutating func below(_ limit: Int) -> Int { Int(random.next() % UInt64(limit)) }

    private mutating func byte() -> UInt8 {
        switch below(4) {
        case 0: Self.edges[below(Self.edges.count)]
        case 1: 0
        default: UInt8(truncatingIfNeeded: random.next())
        }
    }

    mutating func next() -> [UInt8] {
        if below(4) == 0 { return (0..<below(400)).map { _ in byte() } }
        var bytes = seeds[below(seeds.count)]
        for _ in 0...below(8) {
            let place = below(bytes.count + 1)
            switch below(8) {
            case 0: bytes.insert(contentsOf: (0...below(16)).map { _ in byte() }, at: place)
            case 1: bytes.removeLast(min(below(8), bytes.count - place))
            case 2: bytes += seeds[below(seeds.count)].suffix(below(64))
            default: if place < bytes.count { bytes[place] = byte() }
            }
        }
        return bytes
    }
}
