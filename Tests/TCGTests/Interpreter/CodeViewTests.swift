import Testing

@testable import TCG

/// Code follows the address space: what is mapped anew is looked up anew.
@Suite("Code and address spaces")
struct CodeViewTests {
    static let page = PageWalkTests.page
    static let entry = BareMachine.tables + 0x3000
    static let present: UInt64 = 7

    /// Long mode, `mov eax, 1; hlt` at 6 MiB and `mov eax, 2; hlt` at 7 MiB; the page at 4 MiB is
    /// the first of the two.
    private func machine(flags: UInt64, cpl: UInt8 = 0) throws -> BareMachine {
        let machine = try BareMachine()
        try machine.enterLong(cpl: cpl)
        machine.cpu.fields.cr4 |= CR4.pge
        machine.put(BareMachine.tables + 0x2010, BareMachine.tables + 0x3000 | 7)
        machine.put(Self.entry, 0x60_0000 | flags)
        machine.put(0x60_0000, bytes: [0xB8, 1, 0, 0, 0, 0xF4])
        machine.put(0x70_0000, bytes: [0xB8, 2, 0, 0, 0, 0xF4])
        return machine
    }

    /// What the code at 4 MiB finds for EAX.
    private func run(_ machine: BareMachine) -> UInt64 {
        machine.cpu.rip = Self.page
        machine.cpu.fields.isHalted = false
        machine.runUntilHalt()
        return machine.cpu[0]
    }

    @Test("a CR3 load lets go of code on pages that are not global, in supervisor mode too")
    func local() throws {
        let machine = try machine(flags: Self.present)
        #expect(run(machine) == 1)
        machine.put(Self.entry, 0x70_0000 | Self.present)
        try machine.cpu.writeControlRegister(3, BareMachine.tables)
        #expect(run(machine) == 2)
    }

    @Test("code on global pages survives a CR3 load, and INVLPG of its page drops it")
    func global() throws {
        let machine = try machine(flags: Self.present | 0x100)
        #expect(run(machine) == 1)
        // Only the code on the global page counts: the rest of the test's world is forgotten.
        machine.cpu.flushTLB()
        #expect(run(machine) == 1)
        machine.put(Self.entry, 0x70_0000 | Self.present | 0x100)
        let generation = machine.cpu.codeGeneration
        try machine.cpu.writeControlRegister(3, BareMachine.tables)
        #expect(machine.cpu.codeGeneration == generation)
        #expect(run(machine) == 1)
        machine.cpu.invalidatePage(Self.page + 0x3000)
        #expect(machine.cpu.codeGeneration == generation, "no code is there")
        // Filters have the same bit for it.
        machine.cpu.invalidatePage(0xC0_1000)
        #expect(machine.cpu.codeGeneration == generation, "nor there")
        machine.cpu.invalidatePage(Self.page + 0x123)
        #expect(run(machine) == 2)
    }

    @Test("INVLPG of any address of a large page drops its code")
    func large() throws {
        let machine = try machine(flags: Self.present)
        machine.put(BareMachine.tables + 0x2010, UInt64(0x60_0000 | 0x87 | 0x100))
        machine.put(0x20_0000, bytes: [0xB8, 3, 0, 0, 0, 0xF4])
        #expect(run(machine) == 1)
        machine.put(BareMachine.tables + 0x2010, UInt64(0x20_0000 | 0x87 | 0x100))
        machine.cpu.invalidatePage(Self.page + 0x1F_F000)
        #expect(run(machine) == 3)
    }

    @Test("user code is looked up anew after a CR3 load, supervisor code on global pages is not")
    func twoViews() throws {
        let machine = try machine(flags: Self.present | 0x100)
        machine.cpu.flushTLB()
        #expect(run(machine) == 1)
        let supervisor = machine.cpu.codeGeneration
        machine.cpu.fields.cpl = 3
        machine.cpu.updateMode()
        let user = machine.cpu.codeGeneration
        try machine.cpu.loadCR3(BareMachine.tables)
        #expect(machine.cpu.codeGeneration != user)
        machine.cpu.fields.cpl = 0
        machine.cpu.updateMode()
        #expect(machine.cpu.codeGeneration == supervisor)
    }

    @Test("translated code that may not run is no answer where its page is another now")
    func remapped() throws {
        let machine = try BareMachine.running([
            0xB9, 0x64, 0x00, 0x00, 0x00,  // mov ecx, 100
            0xE8, 0xF6, 0xAF, 0x3F, 0x00,  // again: call 400000
            0xFF, 0xC9, 0x75, 0xF7,  // dec ecx; jnz again
            0xF4, 0xE8, 0xEC, 0xAF, 0x3F, 0x00, 0xF4,  // hlt; call 400000; hlt
        ])
        let cpu = machine.cpu
        cpu.fields.translationThreshold = 4
        machine.put(BareMachine.tables + 0x2010, BareMachine.tables + 0x3000 | 7)
        machine.put(Self.entry, 0x60_0000 | Self.present)
        machine.put(0x60_0000, bytes: [0xB8, 1, 0, 0, 0, 0xC3])  // mov eax, 1; ret
        machine.put(0x70_0000, bytes: [0xB8, 2, 0, 0, 0, 0xC3])
        machine.runUntilHalt()
        #expect(cpu[0] == 1 && cpu.rip == BareMachine.code + 15)
        for (physical, value) in [(0x60_0000, 1), (0x70_0000, 2), (0x60_0000, 1)] {
            machine.put(Self.entry, UInt64(physical) | Self.present)
            try cpu.loadCR3(BareMachine.tables)
            // The loop, which is translated, once more.
            cpu[1] = 3
            cpu.rip = BareMachine.code + 5
            cpu.fields.isHalted = false
            machine.runUntilHalt()
            #expect(cpu[0] == UInt64(value))
        }
        // As a device would.
        machine.put(0x60_0001, UInt8(9))
        try cpu.loadCR3(BareMachine.tables)
        cpu[1] = 3
        cpu.rip = BareMachine.code + 5
        cpu.fields.isHalted = false
        machine.runUntilHalt()
        #expect(cpu[0] == 9)
        #expect(cpu.counters.exits.stale > 0)
        #expect(cpu.fields.staleBlock == 0)
    }

    @Test("with identifiers, user code is still known where the guest comes back without a flush")
    func identifiers() throws {
        let machine = try machine(flags: Self.present | 0x100)
        let (cpu, tables) = (machine.cpu, BareMachine.tables)
        let noFlush: UInt64 = 1 << 63
        #expect(run(machine) == 1)
        cpu.fields.cr4 |= CR4.pcide
        func enter(_ cr3: UInt64) throws -> UInt32 {
            try cpu.writeControlRegister(3, cr3)
            return cpu.fields.codeViews[1].generation
        }
        let zero = cpu.fields.codeViews[1].generation
        let one = try enter(tables | 1 | noFlush)
        #expect(one != zero, "nothing was known about it")
        #expect(try enter(tables | noFlush) == zero)
        #expect(try enter(tables | 1 | noFlush) == one)
        let flushed = try enter(tables)
        #expect(flushed != zero && flushed != one)
        #expect(try enter(tables | 1 | noFlush) == one)
        #expect(try enter((tables + 0x8000) | noFlush) != flushed, "another table")
        #expect(try enter(tables | 1 | noFlush) == one)
        // What ends it: a flush of its own, of all, and memory that may have changed.
        #expect(try enter(tables | 2) > one)
        cpu.dropCodeSpace(1)
        let again = try enter(tables | 1 | noFlush)
        #expect(again != one)
        #expect(try enter(tables | 2 | noFlush) != again)
        cpu.flushLocalCodeLookups()
        #expect(try enter(tables | 1 | noFlush) != again)
    }

    @Test("the count of generations begins again between two blocks, not in the middle of one")
    func wrapping() throws {
        let machine = try BareMachine.running([
            0x89, 0x04, 0x25, 0x00, 0x00, 0x80, 0x00,  // mov [800000], eax: a device
            0x89, 0x04, 0x25, 0x04, 0x00, 0x80, 0x00,  // mov [800004], eax
            0x89, 0x04, 0x25, 0x08, 0x00, 0x80, 0x00,  // mov [800008], eax
            0xB8, 0x07, 0x00, 0x00, 0x00, 0xF4,  // mov eax, 7; hlt
        ])
        let cpu = machine.cpu
        machine.put(BareMachine.tables + 0x2020, UInt64(0x80_0087))
        cpu.fields.latestGeneration = UInt32.max - 4
        machine.runUntilHalt()
        #expect(cpu[0] == 7)
        #expect(cpu.rip == BareMachine.code + 27)
        #expect(machine.surface.writes.count == 3)
        #expect(cpu.fields.latestGeneration < 100)
    }

    @Test("a loop of translated blocks finds the block in a dead one's place")
    func replaced() throws {
        let machine = try BareMachine.running([
            0xB9, 0x05, 0x00, 0x00, 0x00, 0x31, 0xDB,  // mov ecx, 5; xor ebx, ebx
            0xE8, 0xF4, 0x0F, 0x00, 0x00,  // again: call 6000
            0x01, 0xC3,  // add ebx, eax
            0xFE, 0x04, 0x25, 0x01, 0x60, 0x00, 0x00,  // inc byte [6001]
            0xFF, 0xC9, 0x75, 0xEE, 0xF4,  // dec ecx; jnz again; hlt
        ])
        machine.put(0x6000, bytes: [0xB8, 0x01, 0x00, 0x00, 0x00, 0xC3])  // mov eax, 1; ret
        machine.runUntilHalt()
        #expect(machine.cpu[3] == 1 + 2 + 3 + 4 + 5)
    }

    @Test("a flush of all translations leaves supervisor code where it is, or finds it elsewhere")
    func flushed() throws {
        let machine = try machine(flags: Self.present | 0x100)
        machine.cpu.flushTLB()
        #expect(run(machine) == 1)
        let generation = machine.cpu.codeGeneration
        machine.cpu.flushTranslations()
        #expect(machine.cpu.codeGeneration == generation)
        #expect(run(machine) == 1)
        machine.put(Self.entry, 0x70_0000 | Self.present | 0x100)
        machine.cpu.flushTranslations()
        #expect(machine.cpu.codeGeneration != generation)
        #expect(run(machine) == 2)
        // Not executable any more.
        machine.put(Self.entry, 1 << 63 | 0x70_0000 | Self.present | 0x100)
        machine.cpu.flushTranslations()
        machine.setGate64(14, BareMachine.handler + 14)
        machine.put(BareMachine.handler + 14, UInt8(0xF4))
        _ = run(machine)
        #expect(machine.exception?.vector == 14)
    }

    @Test("a large page that becomes small ones is looked at again, if only one of them has moved")
    func split() throws {
        let machine = try machine(flags: Self.present)
        machine.put(BareMachine.tables + 0x2010, UInt64(0x60_0000 | 0x87 | 0x100))
        machine.put(0x60_1000, bytes: [0xB8, 4, 0, 0, 0, 0xF4])
        machine.cpu.flushTLB()
        func run() -> UInt64 {
            machine.cpu.rip = Self.page + 0x1000
            machine.cpu.fields.isHalted = false
            machine.runUntilHalt()
            return machine.cpu[0]
        }
        #expect(run() == 4)
        machine.put(BareMachine.tables + 0x2010, BareMachine.tables + 0x3000 | 7)
        machine.put(Self.entry + 8, 0x70_0000 | Self.present | 0x100)
        machine.cpu.flushTranslations()
        #expect(run() == 2)
    }

    @Test("blocks that are found again are what is in memory")
    func pages() throws {
        let machine = try machine(flags: Self.present)
        // mov eax, 1; jmp behind the gap; there: add eax, 5; hlt
        machine.put(0x60_0000, bytes: [0xB8, 1, 0, 0, 0, 0xEB, 0x10])
        machine.put(0x60_0017, bytes: [0x83, 0xC0, 5, 0xF4])
        #expect(run(machine) == 6)
        let before = machine.cpu.counters
        try machine.cpu.loadCR3(BareMachine.tables)
        #expect(run(machine) == 6)
        #expect(machine.cpu.counters.decoded == before.decoded)
        // As a device would.
        machine.put(0x60_0019, UInt8(7))
        try machine.cpu.loadCR3(BareMachine.tables)
        #expect(run(machine) == 8)
        #expect(machine.cpu.counters.outdated == before.outdated + 1)
    }

    @Test("a device's interrupt is a reason to look at code again that is not on global pages")
    func interrupted() throws {
        for isGlobal in [false, true] {
            let machine = try machine(flags: Self.present | (isGlobal ? 0x100 : 0))
            machine.cpu.flushTLB()
            #expect(run(machine) == 1)
            let generation = machine.cpu.codeGeneration
            machine.machine.signalMSI(address: 0xFEE0_0000, data: 0x52)
            _ = machine.cpu.serviceInterrupts()
            #expect((machine.cpu.codeGeneration == generation) == isGlobal)
        }
    }

    @Test("what takes the place of translated code is translated soon")
    func warm() throws {
        let machine = try BareMachine.running([
            0xB9, 0x64, 0x00, 0x00, 0x00,  // mov ecx, 100
            0xE8, 0xF6, 0x0F, 0x00, 0x00,  // again: call 6000
            0xFF, 0xC9, 0x75, 0xF7, 0xF4,  // dec ecx; jnz again; hlt
        ])
        machine.cpu.fields.translationThreshold = 16
        machine.put(0x6000, bytes: [0xB8, 0x01, 0x00, 0x00, 0x00, 0xC3])  // mov eax, 1; ret
        machine.runUntilHalt()
        #expect(machine.cpu[0] == 1)
        machine.cpu.invalidateCode(physical: 0x6001, count: 1)
        machine.put(0x6001, UInt8(2))
        let before = machine.cpu.counters
        // Six times: less than a new block runs in the interpreter.
        machine.cpu[1] = 6
        machine.cpu.rip = BareMachine.code + 5
        machine.cpu.fields.isHalted = false
        machine.runUntilHalt()
        #expect(machine.cpu[0] == 2)
        #expect(machine.cpu.counters.decoded == before.decoded + 1)
        let host = unsafe machine.cpu.cachedBlock(0x6000)?.header.pointee.host
        #expect(host != nil && host != 0)
    }
}
