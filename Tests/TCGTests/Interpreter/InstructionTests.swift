import Testing

@testable import TCG

/// What the comparison with the host CPU does not reach: LOCK with several CPUs, FS and GS,
/// address sizes, faults that the segment decides.
@Suite("Instructions")
struct InstructionTests {
    @Test("FS, GS and 32-bit addresses in 64-bit code")
    func addressing() throws {
        let machine = try BareMachine.running([
            0x64, 0x48, 0x8B, 0x04, 0x25, 0x10, 0x00, 0x00, 0x00,  // mov rax, [fs:10]
            0x65, 0x48, 0x8B, 0x19,  // mov rbx, [gs:rcx]
            0x67, 0x8B, 0x51, 0x10,  // mov edx, [ecx + 10]
            0x67, 0x48, 0x8D, 0x34, 0x11,  // lea rsi, [ecx + edx]
            0x8D, 0x7C, 0xC8, 0x01,  // lea edi, [rax + rcx * 8 + 1]
            0xF4,
        ])
        let cpu = machine.cpu
        for register in [SegmentRegister.fs, SegmentRegister.gs] {
            var segment = cpu.segment(register)
            segment.base = register == SegmentRegister.fs ? 0x20_0000 : 0x20_1000
            cpu.setSegment(register, segment)
        }
        cpu.updateMode()
        machine.put(0x20_0010, UInt64(0xFFFF_FFFF_8000_0001))
        machine.put(0x20_1800, UInt64(0x1234_5678_9ABC_DEF0))
        cpu[1] = 0x800
        machine.put(0x810, UInt32(0xFFFF_FFFE))
        machine.runUntilHalt()
        #expect(cpu[0] == 0xFFFF_FFFF_8000_0001)
        #expect(cpu[3] == 0x1234_5678_9ABC_DEF0)
        #expect(cpu[2] == 0xFFFF_FFFE)
        #expect(cpu[6] == 0x7FE, "an address wraps at its size")
        #expect(cpu[7] == 0x8000_4002)
    }

    @Test(
        "locked instructions do the same with one CPU and with several", arguments: [true, false])
    func locked(isOnlyCPU: Bool) throws {
        let machine = try BareMachine.running([
            0xF0, 0x83, 0x07, 0x05,  // lock add dword [rdi], 5
            0xF0, 0x0F, 0xC1, 0x07,  // lock xadd [rdi], eax
            0x48, 0x87, 0x5F, 0x08,  // xchg [rdi + 8], rbx
            0xF0, 0x48, 0xFF, 0x47, 0x10,  // lock inc qword [rdi + 16]
            0xF0, 0x0F, 0xBA, 0x6F, 0x18, 0x03,  // lock bts dword [rdi + 24], 3
            0xF0, 0x0F, 0xB1, 0x4F, 0x20,  // lock cmpxchg [rdi + 32], ecx
            0xF9, 0xF0, 0x48, 0x11, 0x57, 0x28,  // stc; lock adc qword [rdi + 40], rdx
            0xF0, 0x66, 0xF7, 0x5F, 0x30,  // lock neg word [rdi + 48]
            0xF4,
        ])
        let cpu = machine.cpu
        cpu.fields.isOnlyCPU = isOnlyCPU
        let place: UInt64 = 0x20_0001  // not aligned
        cpu[7] = place
        cpu[0] = 7
        cpu[3] = 0xAAAA
        cpu[1] = 0x99
        cpu[2] = 10
        machine.put(place, UInt32(100))
        machine.put(place + 8, UInt64(0xBBBB))
        machine.put(place + 16, UInt64(41))
        machine.put(place + 24, UInt32(0))
        machine.put(place + 32, UInt32(105))
        machine.put(place + 40, UInt64(5))
        machine.put(place + 48, UInt16(1))
        machine.runUntilHalt()
        #expect(machine.get(place, as: UInt32.self) == 112)
        #expect(machine.get(place + 8, as: UInt64.self) == 0xAAAA && cpu[3] == 0xBBBB)
        #expect(machine.get(place + 16, as: UInt64.self) == 42)
        #expect(machine.get(place + 24, as: UInt32.self) == 8)
        #expect(machine.get(place + 32, as: UInt32.self) == 0x99 && cpu[0] == 105)
        #expect(machine.get(place + 40, as: UInt64.self) == 16)
        #expect(machine.get(place + 48, as: UInt16.self) == 0xFFFF)
        #expect(cpu.carryFlag && cpu.signFlag)
    }

    @Test("CMPXCHG16B exchanges, and faults when it is not aligned")
    func compareExchange16() throws {
        let machine = try BareMachine.running([0xF0, 0x48, 0x0F, 0xC7, 0x0F, 0xF4])
        let cpu = machine.cpu
        machine.put(0x20_0000, UInt64(1))
        machine.put(0x20_0008, UInt64(2))
        (cpu[0], cpu[2], cpu[3], cpu[1], cpu[7]) = (1, 2, 3, 4, 0x20_0000)
        machine.runUntilHalt()
        #expect(machine.get(0x20_0000, as: UInt64.self) == 3 && cpu.zeroFlag)
        #expect(machine.get(0x20_0008, as: UInt64.self) == 4)

        let odd = try BareMachine.running([0xF0, 0x48, 0x0F, 0xC7, 0x0F, 0xF4])
        odd.cpu[7] = 0x20_0008
        odd.runUntilHalt()
        #expect(odd.exception?.vector == 13)
    }

    @Test(
        "a non-canonical address through the stack segment is #SS",
        arguments: [
            ([0x48, 0x8B, 0x45, 0x00], 12),  // mov rax, [rbp]
            ([0x50], 12),  // push rax
            ([0xC3], 12),  // ret
            ([0x66, 0x50], 12),  // push ax
            ([0x0F, 0xA0], 12),  // push fs
            ([0x9D], 12),  // popf
            ([0xC8, 0x00, 0x00, 0x00], 12),  // enter 0, 0
            ([0x8F, 0x03], 12),  // pop qword [rbx]
            ([0x48, 0x8B, 0x03], 13),  // mov rax, [rbx]
        ] as [([UInt8], UInt64)])
    func stackFault(bytes: [UInt8], vector: UInt64) throws {
        try expect(vector, of: bytes, at: 1 << 60)
    }

    @Test(
        "so is one where the last bytes only are not at an address",
        arguments: [
            ([0x48, 0x8B, 0x45, 0x00], 12),  // mov rax, [rbp]
            ([0x58], 12),  // pop rax
            ([0xC3], 12),  // ret
            ([0xC9], 12),  // leave
            ([0x9D], 12),  // popf
            ([0x0F, 0x10, 0x45, 0x00], 12),  // movups xmm0, [rbp]
            ([0x0F, 0x28, 0x45, 0x00], 13),  // movaps xmm0, [rbp], which is not aligned
            ([0x48, 0x8B, 0x03], 13),  // mov rax, [rbx]
            ([0x50], 14),  // push rax
        ] as [([UInt8], UInt64)])
    func stackFaultAtTheEnd(bytes: [UInt8], vector: UInt64) throws {
        try expect(vector, of: bytes, at: 0x7FFF_FFFF_FFFC)
    }

    private func expect(_ vector: UInt64, of bytes: [UInt8], at address: UInt64) throws {
        let machine = try BareMachine.running(bytes + [0xF4])
        let cpu = machine.cpu
        for vector in [UInt8(12), 13, 14] {
            // The handler needs a stack of its own.
            machine.setGate64(vector, BareMachine.handler + UInt64(vector), stackTable: 1)
        }
        machine.put(BareMachine.tss + 0x24, UInt64(BareMachine.stack - 0x400))
        for register in [3, 4, 5] as [UInt8] { cpu[register] = address }
        machine.runUntilHalt()
        #expect(machine.exception?.vector == vector)
        #expect(cpu.rip == BareMachine.handler + vector + 1)
    }

    @Test("what the processor does not advertise is undefined")
    func undefined() throws {
        for bytes: [UInt8] in [
            [0x0F, 0x38, 0xF0, 0x00],  // movbe eax, [rax]
            [0x0F, 0xC7, 0xF0],  // rdrand eax
            [0xC5, 0xF8, 0x28, 0xC1],  // vmovaps xmm0, xmm1
            [0x0F, 0x01, 0xD0],  // xgetbv
            [0x0F, 0x0B],  // ud2
        ] {
            let machine = try BareMachine.running(bytes + [0xF4])
            machine.runUntilHalt()
            #expect(machine.exception?.vector == 6, "\(bytes)")
            #expect(machine.exception?.rip == BareMachine.code)
        }
    }

    @Test("TZCNT and LZCNT are BSF and BSR, which leave the destination for a zero source")
    func bitScans() throws {
        let machine = try BareMachine.running([
            0xF3, 0x0F, 0xBC, 0xC1,  // tzcnt eax, ecx
            0xF3, 0x0F, 0xBD, 0xD1,  // lzcnt edx, ecx
            0x0F, 0xBC, 0xDE,  // bsf ebx, esi
            0xF4,
        ])
        let cpu = machine.cpu
        (cpu[1], cpu[6], cpu[3]) = (0x50, 0, 77)
        machine.runUntilHalt()
        #expect(cpu[0] == 4 && cpu[2] == 6 && cpu[3] == 77)
        #expect(cpu.zeroFlag)
    }

    @Test("more than 15 bytes are #GP")
    func tooLong() throws {
        let machine = try BareMachine.running([UInt8](repeating: 0x66, count: 15) + [0x90, 0xF4])
        machine.runUntilHalt()
        #expect(machine.exception?.vector == 13)
    }

    @Test("a read-modify-write of a read-only page faults as a write and changes nothing")
    func readModifyWriteFault() throws {
        let machine = try BareMachine.running([0xF9, 0x83, 0x13, 0x01, 0xF4])  // stc; adc [rbx], 1
        let cpu = machine.cpu
        machine.put(BareMachine.tables + 0x2000 + 8, UInt64(0x20_0085))
        cpu[3] = 0x20_0000
        machine.runUntilHalt()
        #expect(machine.exception?.vector == 14)
        #expect(machine.get(cpu[4], as: UInt64.self) == 3, "present, write")
        #expect(cpu.carryFlag)
    }

    @Test(
        "MASKMOVDQU checks the segment for every byte that it selects, and writes all or none",
        arguments: [(0x80, 0x5005, 0x55), (0x8080, 0x700E, 0)] as [(UInt64, UInt64, UInt8)])
    func maskedStore(mask: UInt64, rip: UInt64, written: UInt8) throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        let cpu = machine.cpu
        machine.put(BareMachine.code, bytes: [0x66, 0x0F, 0xF7, 0xC1, 0xF4])
        machine.setGate32(13, UInt32(BareMachine.handler + 13))
        machine.put(BareMachine.handler + 13, UInt8(0xF4))
        var segment = cpu.segment(SegmentRegister.ds)
        segment.limit = 0x2F_FFFF
        cpu.setSegment(SegmentRegister.ds, segment)
        cpu.updateMode()
        cpu.fields.cr4 = CR4.osfxsr
        // SAFETY: the state's own registers.
        unsafe cpu.xmm(0).storeBytes(of: 0x5555, as: UInt64.self)
        unsafe cpu.xmm(1).storeBytes(of: mask, as: UInt64.self)
        cpu[7] = 0x2F_FFFF
        machine.runUntilHalt()
        #expect(cpu.rip == rip)
        #expect(machine.get(0x2F_FFFF, as: UInt8.self) == written)
        #expect(machine.get(0x30_0000, as: UInt8.self) == 0)
    }

    @Test("an instruction of 32-bit code goes on at address 0 after 4 GiB, in long mode as well")
    func wrap() throws {
        let machine = try BareMachine.running([])
        let cpu = machine.cpu
        // The last 2 MiB below 4 GiB are the last 2 MiB of memory.
        let tables = BareMachine.tables
        machine.put(tables + 0x1000 + 3 * 8, tables + 0x3000 | 7)
        machine.put(tables + 0x3000 + 511 * 8, UInt64(0x60_0087))
        machine.put(0x7F_FFFE, bytes: [0xB8, 0x11])  // mov eax, 44332211
        machine.put(0, bytes: [0x22, 0x33, 0x44, 0xF4])
        cpu.setSegment(
            SegmentRegister.cs,
            Segment(
                selector: BareMachine.Selector.code32, attributes: 0xC09B, limit: .max,
                base: 0x1000))
        cpu.updateMode()
        cpu.rip = 0xFFFF_EFFE
        machine.runUntilHalt()
        #expect(cpu[0] == 0x4433_2211)
        #expect(cpu.rip == 0xFFFF_F004)
    }
}
