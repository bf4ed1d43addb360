import Testing

@testable import TCG

/// Decoded code follows the bytes in memory.
@Suite("Decoded blocks")
struct CodeCacheTests {
    @Test("a store into the running block takes effect at the next instruction")
    func storeAhead() throws {
        let machine = try BareMachine.running([
            0xC6, 0x05, 0x01, 0x00, 0x00, 0x00, 0x07,  // mov byte [rel target + 1], 7
            0xB0, 0x01,  // target: mov al, 1
            0xF4,
        ])
        machine.cpu[0] = 0
        machine.runUntilHalt()
        #expect(machine.cpu[0] == 7)
    }

    @Test("a loop that changes its own immediate sees every change")
    func changingLoop() throws {
        let machine = try BareMachine.running([
            0xB9, 0x03, 0x00, 0x00, 0x00, 0x31, 0xDB,  // mov ecx, 3; xor ebx, ebx
            0xB0, 0x01, 0x00, 0xC3,  // again: mov al, 1; add bl, al
            0xFE, 0x05, 0xF7, 0xFF, 0xFF, 0xFF,  // inc byte [rel again + 1]
            0xFF, 0xC9, 0x75, 0xF2, 0xF4,  // dec ecx; jnz again; hlt
        ])
        machine.runUntilHalt()
        #expect(machine.cpu[3] == 1 + 2 + 3)
    }

    @Test("a store to another block is seen when that runs again, also through a connection")
    func storeElsewhere() throws {
        let machine = try BareMachine.running([
            0xE8, 0xFB, 0x0F, 0x00, 0x00,  // call 6000
            0xC7, 0x04, 0x25, 0x01, 0x60, 0x00, 0x00, 0x22, 0x00, 0x00, 0x00,  // [6001] = 22
            0xE8, 0xEB, 0x0F, 0x00, 0x00, 0xF4,  // call 6000; hlt
        ])
        machine.put(0x6000, bytes: [0xB8, 0x11, 0x00, 0x00, 0x00, 0xC3])  // mov eax, 11; ret
        machine.runUntilHalt()
        #expect(machine.cpu[0] == 0x22)
    }

    @Test("an instruction across pages follows changes of its second half")
    func acrossPages() throws {
        let machine = try BareMachine.running([])
        // mov eax, 11; hlt with the immediate on the next page
        machine.put(0x5FFE, bytes: [0x90, 0xB8, 0x11, 0x00, 0x00, 0x00, 0xF4])
        for (value, expected) in [(nil, 0x11), (UInt8(0x33), 0x33)] as [(UInt8?, UInt64)] {
            machine.cpu.rip = 0x5FFE
            machine.cpu.fields.isHalted = false
            if let value { try machine.cpu.store(0x6000, value) }
            machine.runUntilHalt()
            #expect(machine.cpu[0] == expected)
        }
    }

    @Test("a change from outside is seen after the lookups were flushed")
    func changedOutside() throws {
        let machine = try BareMachine.running([0xB0, 0x01, 0xF4])
        machine.runUntilHalt()
        machine.put(BareMachine.code + 1, UInt8(9))
        machine.cpu.flushCodeLookups()
        machine.cpu.rip = BareMachine.code
        machine.cpu.fields.isHalted = false
        machine.runUntilHalt()
        #expect(machine.cpu[0] & 0xFF == 9)
    }

    @Test("writes to a page are fast again once its code is gone")
    func codePageIsReleased() throws {
        let machine = try BareMachine.running([0xF4])
        let cpu = machine.cpu
        machine.runUntilHalt()
        #expect(cpu.hasCode(physical: BareMachine.code))
        try cpu.store(BareMachine.code + 0x800, UInt64(0))
        #expect(cpu.hasCode(physical: BareMachine.code), "another part of the page")
        try cpu.store(BareMachine.code, UInt64(0))
        #expect(!cpu.hasCode(physical: BareMachine.code))
        let isFast = unsafe cpu.writableHost(BareMachine.code, size: 8) != nil
        #expect(isFast)
    }

    @Test("the same bytes in another mode are other instructions")
    func modesAreApart() throws {
        // 48 FF C0: inc rax in 64-bit code, dec eax and inc eax in 32-bit code.
        let machine = try BareMachine.running([0x48, 0xFF, 0xC0, 0xF4])
        machine.cpu[0] = 5
        machine.runUntilHalt()
        #expect(machine.cpu[0] == 6)
        var segment = machine.cpu.segment(SegmentRegister.cs)
        segment.attributes = 0xC09B
        machine.cpu.setSegment(SegmentRegister.cs, segment)
        machine.cpu.updateMode()
        machine.cpu.rip = BareMachine.code
        machine.cpu.fields.isHalted = false
        machine.cpu[0] = 5
        machine.runUntilHalt()
        #expect(machine.cpu[0] == 5)
    }

    @Test("what a lookup reads of a block is in two cache lines")
    func headerLayout() throws {
        let start = MemoryLayout.offset(of: \BlockHeader.start)
        let rest = MemoryLayout.offset(of: \BlockHeader.nextRIP)
        #expect(start == 64 && rest == 128)
        #expect(Block.headerSize % 64 == 0)
    }

    @Test("a full arena starts again")
    func fullArena() throws {
        let machine = try BareMachine.running([])
        // Jumps from one to the next: far more blocks than 32 MiB hold in all rounds together.
        let count: UInt64 = 60_000
        let base: UInt64 = 0x20_0000
        for index in 0..<count {
            // add rax, imm32; jmp +0
            machine.put(base + index * 16, bytes: [0x48, 0x05, 1, 0, 0, 0, 0xEB, 0x08])
        }
        machine.put(base + count * 16, bytes: [0xF4])
        machine.cpu[0] = 0
        for round in 1...6 as ClosedRange<UInt64> {
            machine.cpu.rip = base
            machine.cpu.fields.isHalted = false
            machine.runUntilHalt()
            #expect(machine.cpu[0] == count * round)
            machine.cpu.invalidateCode(physical: base, count: Int(count * 16))
        }
    }
}
