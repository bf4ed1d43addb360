import Testing

@testable import TCG

/// `retired` and `budget` are exact wherever the CPU stops.
@Suite("Counting instructions")
struct CountingTests {
    /// mov ecx, 1000; l: add eax, 1; dec ecx; jnz l; hlt
    static let loop: [UInt8] = [
        0xB9, 0xE8, 0x03, 0x00, 0x00, 0x83, 0xC0, 0x01, 0xFF, 0xC9, 0x75, 0xF9, 0xF4,
    ]

    @Test("a loop of connected blocks")
    func loop() throws {
        let machine = try BareMachine.running(Self.loop)
        machine.cpu[0] = 0
        machine.runUntilHalt()
        #expect(machine.cpu.fields.retired == 1 + 3 * 1000 + 1)
        #expect(machine.cpu[0] == 1000)
    }

    @Test("the budget ends a run exactly", arguments: [1, 2, 3, 4, 5, 17, 100, 2999])
    func budget(count: Int) throws {
        let machine = try BareMachine.running(Self.loop)
        machine.cpu.budget = Int64(count)
        // `execute` returns as soon as it looks.
        machine.cpu.fields.pendingEffect = 1
        machine.cpu.execute()
        #expect(machine.cpu.fields.retired == UInt64(count))
    }

    @Test("a fault in a block leaves out the rest of it")
    func fault() throws {
        let machine = try BareMachine.running([
            0xB8, 0x01, 0x00, 0x00, 0x00, 0xBB, 0x02, 0x00, 0x00, 0x00,
            0x48, 0x8B, 0x0C, 0x25, 0xF0, 0xFF, 0xFF, 0x7F,  // mov rcx, [7FFFFFF0]
            0xBA, 0x03, 0x00, 0x00, 0x00, 0xF4,
        ])
        machine.cpu[2] = 0
        machine.runUntilHalt()
        let exception = try #require(machine.exception)
        #expect(exception == (14, BareMachine.code + 10))
        // Two moves and the handler's HLT.
        #expect(machine.cpu.fields.retired == 3)
        #expect(machine.cpu[2] == 0)
    }

    @Test("a repeated string instruction counts once")
    func repeated() throws {
        let machine = try BareMachine.running([0xF3, 0xA4, 0xF4])
        machine.cpu[1] = 20_000
        machine.cpu[6] = 0x20_0000
        machine.cpu[7] = 0x30_0000
        machine.runUntilHalt()
        #expect(machine.cpu.fields.retired == 2)
    }

    @Test("a store that kills its own block")
    func selfModification() throws {
        let machine = try BareMachine.running([
            0xC6, 0x05, 0x01, 0x00, 0x00, 0x00, 0x07, 0xB0, 0x01, 0xF4,
        ])
        machine.runUntilHalt()
        #expect(machine.cpu.fields.retired == 3)
    }
}
