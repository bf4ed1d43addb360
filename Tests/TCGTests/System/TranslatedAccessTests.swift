import Testing

@testable import TCG

/// What a program leaves behind.
private struct Outcome: Equatable {
    var registers: [UInt64]
    var retired: UInt64
    var cr2: UInt64
    var vector: UInt64?
    var rip: UInt64?
    /// The page tables' entries for 4-6 MiB.
    var entries: [UInt64]
    var reads: [RecordingSurface.Access]
    var writes: [RecordingSurface.Access]
}

/// Translated code asks for an entry of the soft TLB where it has none (`CPU.reach`), and the
/// interpreter makes the access only where that is not enough.
@Suite("Accesses of translated code that miss the soft TLB")
struct TranslatedAccessTests {
    static let page = PageWalkTests.page
    static let entry = BareMachine.tables + 0x3000

    /// Pages of 4-6 MiB lead to the same of physical memory; RDI to R15 point to them.
    private func machine(
        _ code: [UInt8], threshold: Int32 = 0, model: CPUModel.Name = .level2,
        entries: [Int: UInt64] = [:]
    ) throws -> BareMachine {
        let machine = try BareMachine.running(code, model: model)
        machine.put(BareMachine.tables + 0x2010, Self.entry | 7)
        for number in 0..<512 {
            let value = entries[number] ?? Self.page + UInt64(number) << 12 | 7
            machine.put(Self.entry + 8 * UInt64(number), value)
        }
        let cpu = machine.cpu
        cpu.fields.translationThreshold = threshold
        for register in UInt8(0)..<16 where register != 4 { cpu[register] = UInt64(register) << 32 }
        cpu[7] = Self.page
        cpu[6] = Self.page + 0x1000
        return machine
    }

    private func outcome(_ machine: BareMachine) -> Outcome {
        let cpu = machine.cpu
        return Outcome(
            registers: (UInt8(0)..<16).map { cpu[$0] }, retired: cpu.fields.retired,
            cr2: cpu.fields.cr2, vector: machine.exception?.vector, rip: machine.exception?.rip,
            entries: (UInt64(0)..<512).map {
                machine.get(Self.entry + 8 * $0, as: UInt64.self)
            }, reads: machine.surface.reads, writes: machine.surface.writes)
    }

    /// Runs a program in translated code and in the interpreter, which must agree.
    private func run(_ code: [UInt8], entries: [Int: UInt64] = [:]) throws -> Outcome {
        let translated = try machine(code, entries: entries)
        translated.runUntilHalt()
        let interpreted = try machine(code, threshold: -1, entries: entries)
        interpreted.runUntilHalt()
        let result = outcome(translated)
        #expect(result == outcome(interpreted))
        return result
    }

    private static let accessed: UInt64 = 0x20
    private static let dirty: UInt64 = 0x40
    private static let both = accessed | dirty

    // mov rax, [rdi]; mov ecx, [rsi]; mov [rdi + 8], rax; hlt
    private static let readAndWrite: [UInt8] = [
        0x48, 0x8B, 0x07, 0x8B, 0x0E, 0x48, 0x89, 0x47, 0x08, 0xF4,
    ]

    @Test("a page is dirty once it is written, not when a look for a read and a write is shared")
    func dirty() throws {
        let done = try run(Self.readAndWrite)
        #expect(done.entries[0] & Self.both == Self.both)
        #expect(done.entries[1] & Self.both == Self.accessed)
        #expect(done.entries[2] & Self.both == 0)
        #expect(done.retired == 4)
        // The fault comes between the read and the write.
        let faulted = try run(Self.readAndWrite, entries: [1: 0])
        #expect(faulted.entries[0] & Self.both == Self.accessed)
        #expect(faulted.vector == 14)
        #expect(faulted.cr2 == Self.page + 0x1000)
        #expect(faulted.retired == 2)
    }

    @Test("accesses by way of one register may be as far apart as displacements allow")
    func far() throws {
        let done = try run([
            0xB8, 0x00, 0x00, 0x00, 0x40,  // mov eax, 40000000
            0x48, 0x8B, 0x88, 0x01, 0x00, 0x00, 0xC0,  // mov rcx, [rax - 3FFFFFFF]
            0x48, 0x8B, 0x90, 0xFF, 0xFF, 0xFF, 0x3F, 0xF4,  // mov rdx, [rax + 3FFFFFFF]; hlt
        ])
        #expect(done.vector == 14)
        #expect(done.cr2 == 0x7FFF_FFFF)
    }

    @Test("a read-only page faults at the write")
    func readOnly() throws {
        let result = try run(Self.readAndWrite, entries: [0: Self.page | 5])
        #expect(result.rip == BareMachine.code + 5)
        #expect(result.cr2 == Self.page + 8)
        #expect(result.entries[0] & Self.both == Self.accessed)
        #expect(result.retired == 3)
    }

    @Test("a page that goes, and comes back elsewhere")
    func present() throws {
        let machine = try machine(Self.readAndWrite)
        let cpu = machine.cpu
        func again(_ entry: UInt64, flush: Bool = true) {
            machine.put(Self.entry, entry)
            if flush { cpu.flushPage(Self.page) }
            cpu.rip = BareMachine.code
            cpu.fields.isHalted = false
            cpu.fields.retired = 0
            machine.runUntilHalt()
        }
        machine.put(0x50_0000, UInt64(5))
        machine.runUntilHalt()
        #expect(cpu.fields.retired == 4)
        again(0, flush: false)
        #expect(machine.exception == nil)
        again(0)
        #expect(machine.exception?.vector == 14)
        #expect(cpu.fields.cr2 == Self.page)
        #expect(cpu.fields.retired == 1)
        again(0x50_0007)
        #expect(machine.exception == nil)
        #expect(cpu[0] == 5)
        #expect(machine.get(0x50_0008, as: UInt64.self) == 5)
        #expect(cpu.fields.retired == 4)
    }

    @Test("a device sees each access once, with its size")
    func device() throws {
        let result = try run(Self.readAndWrite, entries: [0: 0xD000_0007])
        #expect(result.reads.map(\.size) == [8])
        #expect(result.writes.map(\.address) == [0xD000_0008])
        #expect(result.retired == 4)
    }

    @Test("stores to a page with code, and their effect on it")
    func code() throws {
        // mov byte [rip + 1], 7; mov al, 1; hlt
        let own = try run([0xC6, 0x05, 0x01, 0x00, 0x00, 0x00, 0x07, 0xB0, 0x01, 0xF4])
        #expect(own.registers[0] & 0xFF == 7)
        #expect(own.retired == 3)
        let machine = try machine(Self.readAndWrite)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        let write = HostAccess(size: 8, mode: 2, isWrite: true, isAligned: false)
        let read = HostAccess(size: 8, mode: 2, isWrite: false, isAligned: false)
        cpu.markCode(physical: Self.page)
        #expect(cpu.reach(Self.page, read) != 0)
        #expect(cpu.reach(Self.page, write) == 0)
        cpu.unmarkCode(physical: Self.page)
        #expect(cpu.reach(Self.page, write) == cpu.reach(Self.page, read))
        cpu.markCode(physical: Self.page)
        #expect(cpu.reach(Self.page, write) == 0)
    }

    @Test("across pages, unaligned, not canonical, watched, not allowed: the interpreter's")
    func others() throws {
        let machine = try machine([0xF4], entries: [3: Self.page | 5, 4: 0])
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        func reach(_ address: UInt64, isWrite: Bool = false, isAligned: Bool = false) -> Bool {
            let access = HostAccess(size: 8, mode: 2, isWrite: isWrite, isAligned: isAligned)
            return cpu.reach(address, access) != 0
        }
        #expect(!reach(Self.page + 0xFF9))
        #expect(!reach(Self.page + 0x14, isAligned: true))
        #expect(machine.get(Self.entry, as: UInt64.self) & Self.accessed == 0)
        #expect(reach(Self.page + 0x14))
        #expect(reach(Self.page + 0xFF8, isAligned: true))
        #expect(!reach(1 << 47))
        cpu.fields.cr2 = 1
        #expect(!reach(Self.page + 0x3000, isWrite: true))
        #expect(machine.get(Self.entry + 24, as: UInt64.self) & Self.both == 0)
        #expect(!reach(Self.page + 0x4000))
        #expect(cpu.fields.cr2 == 1)
        try cpu.writeDebugRegister(0, Self.page + 0x5000)
        try cpu.writeDebugRegister(7, 0xF_0003)
        #expect(!reach(Self.page + 0x5800))
        let empty = HostAccess(size: 8, mode: 3, isWrite: false, isAligned: false)
        #expect(cpu.reach(Self.page, empty) == 0)
    }

    @Test("no register is lost, whether bits of registers or memory say where the access is")
    func registers() throws {
        let result = try run([
            0x48, 0x05, 0x78, 0x56, 0x34, 0x12,  // add rax, 12345678
            0x4C, 0x8B, 0x37,  // mov r14, [rdi]
            0x9C,  // pushfq
            0xB9, 0x00, 0x40, 0x00, 0x00,  // mov ecx, 4000
            0x44, 0x8B, 0x1C, 0x0F,  // mov r11d, [rdi + rcx]
            0xBA, 0x03, 0x80, 0x01, 0x00,  // mov edx, 18003
            0x0F, 0xAB, 0x17,  // bts [rdi], edx
            0x49, 0xC7, 0xC1, 0x00, 0x20, 0x40, 0x00,  // mov r9, 402000
            0x4D, 0x8B, 0x11, 0x58, 0xF4,  // mov r10, [r9]; pop rax; hlt
        ])
        #expect(result.vector == nil)
        #expect(result.entries[2] & Self.both == Self.accessed)
        #expect(result.entries[3] & Self.both == Self.both)
        #expect(result.entries[4] & Self.both == Self.accessed)
        for register in [3, 5, 8, 12, 13, 15] {
            #expect(result.registers[register] == UInt64(register) << 32)
        }
    }

    @Test("vector registers stay, in full", arguments: [false, true])
    func vectors(usesAVX: Bool) throws {
        if usesAVX && !CPUModel.missing(.level3).isEmpty { return }
        // movups or vmovups with all registers; a read of another page in between.
        func move(_ number: UInt8, isStore: Bool) -> [UInt8] {
            let opcode: UInt8 = isStore ? 0x11 : 0x10
            let modRM: UInt8 = 0x86 | (number & 7) << 3  // [rsi + 32 bits]
            let offset = Int32(number) * 32 + (isStore ? 0x1000 : 0)
            let bytes = (0..<4).map { UInt8(truncatingIfNeeded: offset >> (8 * Int32($0))) }
            if usesAVX { return [0xC5, number > 7 ? 0x7C : 0xFC, opcode, modRM] + bytes }
            return [number > 7 ? 0x44 : 0x40, 0x0F, opcode, modRM] + bytes
        }
        var code: [UInt8] = []
        for number in UInt8(0)..<16 { code += move(number, isStore: false) }
        code += [0x48, 0x8B, 0x07]  // mov rax, [rdi]
        for number in UInt8(0)..<16 { code += move(number, isStore: true) }
        code += [0xF4]
        let machine = try machine(code, model: usesAVX ? .level3 : .level2)
        let cpu = machine.cpu
        cpu.fields.cr4 |= CR4.osxsave
        cpu.fields.xcr0 = 7
        cpu.updateMode()
        for offset in UInt64(0)..<512 {
            machine.put(Self.page + 0x1000 + offset, UInt8(truncatingIfNeeded: offset * 7 + 1))
        }
        machine.runUntilHalt()
        #expect(machine.exception == nil)
        for offset in UInt64(0)..<512 where usesAVX || offset & 16 == 0 {
            let value = machine.get(Self.page + 0x2000 + offset, as: UInt8.self)
            #expect(value == UInt8(truncatingIfNeeded: offset * 7 + 1))
        }
    }

    @Test("PUSHes, POPs and RET whose stack slots are in two pages")
    func stackRuns() throws {
        let code: [UInt8] = [
            0xB9, 0x64, 0x00, 0x00, 0x00,  // mov ecx, 100
            0x48, 0x89, 0xF4,  // mov rsp, rsi
            0x48, 0x83, 0xC4, 0x20,  // add rsp, 32
            0x31, 0xC0,  // xor eax, eax
            0xE8, 0x05, 0x00, 0x00, 0x00,  // again: call function
            0xFF, 0xC9, 0x75, 0xF7, 0xF4,  // dec ecx; jnz again; hlt
            // function: push rbx, rbp, r9, r12, r13, r15
            0x53, 0x55, 0x41, 0x51, 0x41, 0x54, 0x41, 0x55, 0x41, 0x57,
            0x4C, 0x01, 0xF8,  // add rax, r15
            0x4D, 0x31, 0xFF, 0x31, 0xDB, 0x4D, 0x31, 0xC9,  // xor r15, r15; xor ebx, ebx; xor r9, r9
            0x41, 0x5F, 0x41, 0x5D, 0x41, 0x5C, 0x41, 0x59, 0x5D, 0x5B, 0xC3,  // pop all; ret
        ]
        let result = try run(code)
        #expect(result.registers[0] == 100 * 15 << 32)
        let machine = try machine(code)
        machine.runUntilHalt()
        #expect(machine.cpu.counters.interpreted < 40, "two pages are two looks")
    }

    @Test("POPs of which the last ones fault")
    func faultInsideStackRun() throws {
        let code: [UInt8] = [
            0x48, 0x89, 0xFC,  // mov rsp, rdi
            0x48, 0x81, 0xC4, 0xF0, 0x0F, 0x00, 0x00,  // add rsp, 0xFF0
            0xFF, 0x34, 0x24,  // push [rsp]: the page is known
            0x5B, 0x5B, 0x5D, 0x41, 0x5F, 0x5A, 0xC3,  // pop rbx, rbx, rbp, r15, rdx; ret
        ]
        let result = try run(code, entries: [1: 0])
        #expect(result.vector == 14 && result.cr2 == Self.page + 0x1000)
        #expect(result.registers[15] == 15 << 32, "not popped")
    }
}
