/// What a CPU has done, in words: one line for each part of it, as QEMU's `info jit` has them.
struct StatisticsReport {
    private(set) var text: String

    init(
        _ cpu: CPU, index: Int, names: MnemonicCounts?
    ) {
        let counters = cpu.counters
        text = "CPU \(index)"
        let retired = cpu.fields.retired
        add(
            "instructions", retired,
            "retired, \(Self.percent(counters.translatedInstructions, retired)) in translated code")
        addBlocks(counters, cpu.codeCache)
        if let translator = cpu.codeCache?.translator {
            addCode(counters, translator.arena)
            addExits(counters)
            addInterpreted(counters, names)
        }
        add(
            "soft TLB", counters.fills,
            "fills; \(counters.fullFlushes) flushes, \(counters.spaceFlushes) of all but global"
                + " pages, \(counters.pageFlushes) of a page")
    }

    private mutating func addBlocks(_ counters: CPUCounters, _ cache: CodeCache?) {
        add(
            "decoded blocks", counters.decoded,
            "of \(Self.ratio(counters.decodedBytes, counters.decoded)) bytes; now"
                + " \(cache?.regions.used ?? 0) of \(cache?.arenaSize ?? 0) bytes are used")
        add(
            "lookups", counters.lookups,
            "not answered by the jump cache: \(counters.found) found, of them \(counters.moved)"
                + " moved")
        add(
            "generations", counters.generations[0],
            "of supervisor mode's code, \(counters.generations[1]) of user mode's;"
                + " \(counters.returns) returns to an address space, \(counters.known) blocks still known"
                + " there that had run elsewhere")
        add(
            "killed blocks", counters.killed,
            "by writes, \(counters.outdated) because memory had changed")
        add("flushes", counters.flushes, "of all blocks")
        add(
            "evictions", counters.evictions.regions,
            "of the oldest blocks, and \(counters.evictions.codeRegions) of the oldest code, for"
                + " want of room: \(counters.evictions.blocks) blocks, \(counters.evictions.codes)"
                + " translations; the longest took"
                + " \(counters.evictions.longest / 1000) microseconds")
    }

    private mutating func addCode(_ counters: CPUCounters, _ arena: HostArena) {
        add(
            "translated blocks", counters.translated,
            "of \(Self.ratio(counters.translatedBytes, counters.translated)) bytes")
        add(
            "traces", counters.traces,
            "of them, of \(Self.ratio(counters.traceBlocks, counters.traces)) blocks and"
                + " \(Self.ratio(counters.traceInstructions, counters.traces)) instructions")
        add(
            "code", UInt64(arena.base + arena.hot.used),
            "of \(arena.coldStart) bytes are used, and \(arena.cold.used) of"
                + " \(arena.capacity - arena.coldStart) for what runs rarely")
        add(
            "expansion", Self.ratio(counters.hostBytes, counters.translatedBytes),
            "bytes for a byte of the guest's, and"
                + " \(Self.ratio(counters.rareBytes, counters.translatedBytes)) that run rarely")
    }

    private mutating func addExits(_ counters: CPUCounters) {
        add("interpreter", counters.interpreterRuns, "runs of blocks and what they lead to")
        add("entries", counters.entries, "into translated code, which was left")
        let exits = counters.exits
        let reasons = [
            (exits.unconnected, "for a block that was not connected"),
            (exits.indirect, "for a target of an indirect branch that was not in the table"),
            (exits.stale, "at a block that was to be looked up again"),
            (exits.wanted, "because somebody wanted the CPU, or time was up"),
            (exits.operations, "by an operation of the interpreter"),
            (exits.exceptions, "by an exception"),
            (exits.unmasked, "for vector or x87 exceptions that are not masked"),
        ]
        for (count, reason) in reasons { add("", count, reason) }
    }

    private mutating func addInterpreted(_ counters: CPUCounters, _ names: MnemonicCounts?) {
        add("interpreted", counters.interpreted, "operations of translated code")
        for (name, count) in names?.top(20) ?? [] { add("", count, name) }
    }

    // MARK: Text

    private mutating func add(_ name: String, _ number: UInt64, _ words: String) {
        add(name, String(number), words)
    }

    private mutating func add(_ name: String, _ number: String, _ words: String) {
        text += "\n  " + name
        let width = name.utf8.count + number.utf8.count
        for _ in width..<max(width, 34) { text += " " }
        text += number + " " + words
    }

    /// A quotient with one decimal.
    static func ratio(_ count: UInt64, _ whole: UInt64) -> String {
        guard whole > 0 else { return "0.0" }
        let tenths = (count.multipliedFullWidth(by: 10), whole)
        guard tenths.0.high < whole else { return "0.0" }
        let quotient = whole.dividingFullWidth(tenths.0).quotient
        return "\(quotient / 10).\(quotient % 10)"
    }

    private static func percent(_ part: UInt64, _ whole: UInt64) -> String {
        ratio(part &* 100, whole) + "%"
    }
}
