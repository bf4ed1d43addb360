import Testing

@testable import TCG

/// `stats=on`, and what it counts.
@Suite("Statistics")
struct StatisticsTests {
    /// Calls a function at 6000 a hundred times, which executes CPUID, and changes an instruction
    /// of another one at 6100 each time.
    private static let program: [UInt8] = [
        0xBF, 0x64, 0x00, 0x00, 0x00,  // 00: mov edi, 100
        0xE8, 0xF6, 0x0F, 0x00, 0x00,  // 05: again: call 6000
        0xE8, 0xF1, 0x10, 0x00, 0x00,  // 0A: call 6100
        0x40, 0x88, 0x3C, 0x25, 0x01, 0x61, 0x00, 0x00,  // 0F: mov [6101], dil
        0xFF, 0xCF, 0x75, 0xEA, 0xF4,  // 17: dec edi; jnz again; hlt
    ]

    private func machine(showsStatistics: Bool = true) throws -> BareMachine {
        let machine = try BareMachine.running(Self.program, showsStatistics: showsStatistics)
        machine.put(0x6000, bytes: [0x31, 0xC0, 0x0F, 0xA2, 0xC3])  // xor eax, eax; cpuid; ret
        machine.put(0x6100, bytes: [0xB0, 0x01, 0xC3])  // mov al, 1; ret
        machine.runUntilHalt()
        return machine
    }

    @Test("writes to code kill blocks, which are decoded again")
    func selfModification() throws {
        let machine = try machine()
        #expect(machine.cpu.counters.killed >= 100)
        let counters = machine.cpu.counters
        #expect(counters.decoded >= 100)
        #expect(counters.lookups >= counters.decoded + counters.found)
        #expect(counters.outdated == 0)
    }

    @Test("memory that has changed unseen makes a block outdated")
    func outdated() throws {
        let machine = try BareMachine.running([0xB0, 0x01, 0xF4])
        machine.runUntilHalt()
        machine.put(BareMachine.code + 1, UInt8(9))
        let before = machine.cpu.counters.generations
        machine.cpu.flushCodeLookups()
        machine.cpu.rip = BareMachine.code
        machine.cpu.fields.isHalted = false
        machine.runUntilHalt()
        #expect(machine.cpu.counters.outdated == 1)
        #expect(machine.cpu.counters.generations[0] == before[0] + 1)
    }

    @Test("translated blocks, entries and what the interpreter does for them are counted")
    func translation() throws {
        let machine = try machine()
        defer { withExtendedLifetime(machine) {} }
        let counters = machine.cpu.counters
        #expect(counters.translated >= 2)
        #expect(counters.translatedBytes >= 2 * counters.translated)
        #expect(counters.hostBytes > counters.translatedBytes)
        #expect(counters.rareBytes > 0)
        #expect(counters.entries > 0)
        let exits = counters.exits
        let reasons = [
            exits.unconnected, exits.indirect, exits.stale, exits.wanted, exits.exceptions,
            exits.operations, exits.unmasked,
        ]
        #expect(reasons.reduce(0, +) == counters.entries)
        // CPUID, and the write to a page with code, in turns that are not the interpreter's own.
        #expect(counters.interpreted >= 100)
        #expect(counters.translatedInstructions > 0)
    }

    @Test("the report names the instructions of the interpreter, and all that is counted")
    func report() throws {
        let machine = try machine()
        let text = try #require(machine.vcpu.summary)
        let lines = text.split(separator: "\n")
        #expect(lines.first == "CPU 0")
        let counters = machine.cpu.counters
        func number(_ name: String) -> String? {
            lines.first { $0.hasPrefix("  \(name) ") }?.dropFirst(name.utf8.count + 2)
                .split(separator: " ").first.map(String.init)
        }
        #expect(number("instructions") == String(machine.vcpu.retiredInstructions))
        #expect(number("killed blocks") == String(machine.cpu.counters.killed))
        #expect(number("translated blocks") == String(counters.translated))
        #expect(number("entries") == String(counters.entries))
        #expect(number("soft TLB") == String(counters.fills))
        #expect(number("interpreted") == String(counters.interpreted))
        #expect(
            lines.last { $0.hasSuffix(" cpuid") }?.split(separator: " ").first.flatMap {
                UInt64($0)
            } ?? 0 >= 50, "\(text)")
    }

    @Test("without stats=on there is no report, and no names are kept")
    func off() throws {
        let machine = try machine(showsStatistics: false)
        #expect(machine.vcpu.summary == nil)
        #expect(machine.vcpu.mnemonics == nil)
        #expect(machine.cpu.counters.interpreted > 0)
    }

    @Test(
        "quotients have one decimal, of any numbers",
        arguments: [
            (UInt64(0), UInt64(0), "0.0"), (1, 3, "0.3"), (20, 10, "2.0"), (99, 10, "9.9"),
            (UInt64.max, UInt64.max, "1.0"), (UInt64.max, 1, "0.0"),
        ])
    func quotients(count: UInt64, whole: UInt64, text: String) {
        #expect(StatisticsReport.ratio(count, whole) == text)
    }
}
