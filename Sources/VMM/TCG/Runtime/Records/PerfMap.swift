/// Names for translated code that `perf report` finds in `/tmp/perf-PID.map`: a line `START SIZE
/// NAME` for each piece, numbers in hexadecimal (tools/perf/Documentation/jit-interface.txt in
/// Linux). QEMU's `-perfmap` does the same.
///
/// Lines are only added: where a block has been moved, or all have been forgotten and others are
/// in their place, perf finds several names and takes one of them.
// SAFETY: blocks are those of the calling CPU, and alive.
struct PerfMap {
    let file: CodeFile

    /// A block has been translated, or its code is now for another address.
    func note(_ header: UnsafePointer<BlockHeader>, _ arena: HostArena) {
        let name = unsafe Self.name(header.pointee)
        var lines = unsafe Self.line(
            arena.address(Int(header.pointee.nativeEntry)), Int(header.pointee.hostSize), name)
        if unsafe header.pointee.rareSize > 0 {
            lines += unsafe Self.line(
                arena.address(Int(header.pointee.rarePlace)), Int(header.pointee.rareSize),
                "\(name) rare")
        }
        file.append(lines)
    }

    /// The code that leads into translated code and out of it.
    func note(_ stubs: HostStubs, _ arena: HostArena) {
        let places = stubs.places.sorted { $0.start < $1.start }
        var lines = ""
        for (index, stub) in places.enumerated() {
            let end = index + 1 < places.count ? places[index + 1].start : arena.base
            lines += Self.line(arena.address(stub.start), end - stub.start, "apus:\(stub.name)")
        }
        file.append(lines)
    }

    /// For example `guest:ffffffff81000000 kernel trace 5`, a trace of five blocks.
    private static func name(_ header: BlockHeader) -> String {
        let mode = header.key & ModeKey.user != 0 ? "user" : "kernel"
        let trace = header.partCount > 0 ? " trace \(header.partCount + 1)" : ""
        return "guest:\(String(header.linear, radix: 16)) \(mode)\(trace)"
    }

    private static func line(_ start: UInt, _ size: Int, _ name: String) -> String {
        "\(String(start, radix: 16)) \(String(size, radix: 16)) \(name)\n"
    }
}
