import TCGDecoder
import Testing

@testable import TCG

@Suite("Control registers, MSRs, CPUID")
struct SystemRegisterTests {
    func long() throws -> BareMachine {
        let machine = try BareMachine()
        try machine.enterLong()
        return machine
    }

    func refuses(_ body: () throws(Fault) -> Void) -> Bool { fault(body) == .generalProtection(0) }

    @Test("CR0: combinations that are #GP")
    func cr0() throws {
        let machine = try long()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        let value = cpu.fields.cr0
        #expect(refuses { () throws(Fault) in try cpu.writeControlRegister(0, value | 1 << 32) })
        #expect(refuses { () throws(Fault) in try cpu.writeControlRegister(0, value & ~CR0.pe) })
        #expect(refuses { () throws(Fault) in try cpu.writeControlRegister(0, value & ~CR0.pg) })
        #expect(refuses { () throws(Fault) in try cpu.writeControlRegister(0, value | CR0.nw) })
        try cpu.writeControlRegister(0, value & ~CR0.et | 1 << 10)
        #expect(cpu.fields.cr0 == value)
    }

    @Test("CR3 and CR4: reserved bits, PCIDE's conditions")
    func cr4() throws {
        let machine = try long()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        let value = cpu.fields.cr4
        #expect(refuses { () throws(Fault) in try cpu.writeControlRegister(3, 1 << 46) })
        #expect(refuses { () throws(Fault) in try cpu.writeControlRegister(3, 1 << 63) })
        #expect(refuses { () throws(Fault) in try cpu.writeControlRegister(4, value & ~CR4.pae) })
        for bit in [6, 12, 13, 14, 18, 19, 22, 23, 32, 63] as [UInt64] {
            #expect(
                refuses { () throws(Fault) in try cpu.writeControlRegister(4, value | 1 << bit) })
        }
        cpu.fields.cr3 |= 5
        #expect(
            refuses { () throws(Fault) in try cpu.writeControlRegister(4, value | CR4.pcide) })
        cpu.fields.cr3 &= ~0xFFF
        try cpu.writeControlRegister(4, value | CR4.pcide)
    }

    @Test("CR1, CR5-7 do not exist; level 3 sees none of them")
    func missing() throws {
        let machine = try long()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        for number in [UInt8(1), 5, 6, 7, 9, 15] {
            #expect(
                fault { () throws(Fault) in _ = try cpu.readControlRegister(number) }
                    == .invalidOpcode)
        }
        let user = try BareMachine()
        try user.enterLong(cpl: 3)
        #expect(refuses { () throws(Fault) in _ = try user.cpu.readControlRegister(0) })
        #expect(refuses { () throws(Fault) in try user.cpu.readMSR() })
        #expect(refuses { () throws(Fault) in try user.cpu.halt() })
    }

    @Test("long mode is entered and left in the order that the manual asks for")
    func longModeSwitch() throws {
        let machine = try long()
        let tables = machine.cpu.fields.cr3
        let bare = machine
        try bare.enterProtected()
        let cpu = bare.cpu
        defer { withExtendedLifetime(bare) {} }
        cpu.fields.isLongMode = false
        cpu.fields.efer = 0
        cpu.fields.cr4 = 0
        cpu.fields.cr3 = tables
        cpu.updateMode()
        try cpu.setMSR(0xC000_0080, EFER.lme)
        #expect(
            refuses { () throws(Fault) in
                try cpu.writeControlRegister(0, cpu.fields.cr0 | CR0.pg)
            })
        try cpu.writeControlRegister(4, CR4.pae)
        try cpu.writeControlRegister(0, cpu.fields.cr0 | CR0.pg)
        #expect(cpu.fields.isLongMode && cpu.fields.efer == EFER.lme | EFER.lma)
        #expect(!cpu.is64Bit)  // compatibility mode until CS is loaded
        #expect(refuses { () throws(Fault) in try cpu.setMSR(0xC000_0080, 0) })
        try cpu.writeControlRegister(0, cpu.fields.cr0 & ~CR0.pg)
        #expect(!cpu.fields.isLongMode && cpu.fields.efer == EFER.lme)
    }

    @Test("debug registers: fixed bits, aliases, general detect")
    func debugRegisters() throws {
        let machine = try long()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        #expect(try cpu.readDebugRegister(6) == 0xFFFF_0FF0)
        #expect(try cpu.readDebugRegister(7) == 0x400)
        try cpu.writeDebugRegister(4, 0xF)
        #expect(try cpu.readDebugRegister(6) == 0xFFFF_0FFF)
        #expect(refuses { () throws(Fault) in try cpu.writeDebugRegister(7, 1 << 32) })
        cpu.fields.cr4 |= CR4.de
        #expect(fault { () throws(Fault) in _ = try cpu.readDebugRegister(5) } == .invalidOpcode)
        try cpu.writeDebugRegister(7, DR7.gd)
        #expect(fault { () throws(Fault) in _ = try cpu.readDebugRegister(0) } == .debug)
        #expect(cpu.fields.debugRegisters[6] & DR6.bd != 0)
    }

    @Test("a debug exception replaces DR6's B0-B3 and leaves its other bits")
    func debugStatus() throws {
        // mov dr0, rax; mov dr7, rbx; nop at the breakpoint
        let machine = try BareMachine.running([0x0F, 0x23, 0xC0, 0x0F, 0x23, 0xFB, 0x90, 0xF4])
        let cpu = machine.cpu
        (cpu[0], cpu[3]) = (BareMachine.code + 6, 2)
        try cpu.writeDebugRegister(6, DR6.bs | 4)
        machine.runUntilHalt()
        #expect(machine.exception?.vector == 1)
        #expect(try cpu.readDebugRegister(6) == DR6.fixed | DR6.bs | 1)
    }

    @Test("AMD's first performance counters exist and count nothing; others are #GP")
    func counterMSRs() throws {
        let machine = try long()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        for number in UInt32(0xC001_0000)...0xC001_0007 {
            try cpu.setMSR(number, 0x53_0076)
            #expect(try cpu.msr(number) == 0)
        }
        for number in [0x17A, 0x400, 0xC001_0008] as [UInt32] {
            #expect(refuses { () throws(Fault) in _ = try cpu.msr(number) })
            #expect(refuses { () throws(Fault) in try cpu.setMSR(number, 0) })
        }
    }

    @Test("what software reads whatever the vendor is: no banks of machine checks, MISC_ENABLE")
    func vendorIndependentMSRs() throws {
        let machine = try long()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        #expect(try cpu.msr(0x179) == 0)
        #expect(refuses { () throws(Fault) in try cpu.setMSR(0x179, 0) })
        #expect(try cpu.msr(0x1A0) == 0x1801)
        try cpu.setMSR(0x1A0, 0x4_00C5_0809)
        // No branch traces and no event sampling, whatever is written.
        #expect(try cpu.msr(0x1A0) == 0x4_00C5_1809)
        try cpu.setMSR(0x1A0, 0x80)
        #expect(try cpu.msr(0x1A0) == 0x1800)
        #expect(refuses { () throws(Fault) in try cpu.setMSR(0x1A0, 2) })
        #expect(refuses { () throws(Fault) in try cpu.setMSR(0x1A0, 1 << 63) })
    }

    @Test("a data breakpoint at the last address sees what reaches it")
    func lastAddress() throws {
        let machine = try long()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        let last: UInt64 = 0xFFFF_FFFF_FFFF_FFF8
        try cpu.writeDebugRegister(0, last)
        try cpu.writeDebugRegister(7, 1 | 0b1001 << 16)  // writes of 8 bytes
        cpu.noteWatched(last - 8, size: 8, isWrite: true)
        #expect(cpu.fields.pendingDebug == 0)
        cpu.noteWatched(last, size: 8, isWrite: true)
        #expect(cpu.fields.pendingDebug == 1)
    }

    @Test("data breakpoints see reads and writes, and the TLB forgets when they change")
    func dataBreakpoints() throws {
        let machine = try long()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        _ = try cpu.load(0x8000, as: UInt32.self)
        try cpu.writeDebugRegister(0, 0x8004)
        // DR0: 4 bytes, writes; DR1: 1 byte, reads and writes.
        try cpu.writeDebugRegister(1, 0x8010)
        try cpu.writeDebugRegister(7, 0x003D_0005)
        _ = try cpu.load(0x8004, as: UInt32.self)
        #expect(cpu.fields.pendingDebug == 0)
        try cpu.store(0x8007, 1 as UInt16)
        #expect(cpu.fields.pendingDebug == 1)
        _ = try cpu.load(0x800C, as: UInt64.self)
        #expect(cpu.fields.pendingDebug == 3)
        cpu.fields.pendingDebug = 0
        try cpu.writeDebugRegister(7, 0)
        try cpu.store(0x8004, 1 as UInt32)
        #expect(cpu.fields.pendingDebug == 0)
    }

    // MARK: MSRs

    @Test(
        "MSR writes that are #GP",
        arguments: [
            (0x1234, 0), (0xC000_0080, 1 << 16), (0xC000_0082, 1 << 47), (0xC000_0100, 1 << 63),
            (0xC000_0102, 0x8000_0000_0000), (0x175, 0xFFFF_7FFF_FFFF_FFFF), (0x277, 2),
            (0x277, 3 << 56), (0x2FF, 7), (0x2FF, 1 << 8), (0x200, 2), (0x200, 1 << 46),
            (0x201, 0x400), (0x250, 7), (0xFE, 0), (0x1B, 1 << 50), (0x1B, 0x400), (0x802, 0),
            (0x3A, 0), (0x48, 0), (0x9999_9999, 0),
        ] as [(UInt32, UInt64)])
    func badWrites(number: UInt32, value: UInt64) throws {
        let machine = try long()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        #expect(refuses { () throws(Fault) in try cpu.setMSR(number, value) })
    }

    @Test(
        "MSRs keep what is written",
        arguments: [
            (0xC000_0081, 0x1234_5678_9ABC_DEF0), (0xC000_0082, 0xFFFF_8000_0000_0000),
            (0xC000_0103, 0x5), (0x174, 0x10), (0x176, 0x7FFF_FFFF_FFFF),
            (0x277, 0x0706_0504_0100_0606),
            (0x2FF, 0xC06), (0x200, 0xC000_0006), (0x201, 0x3FFF_C000_0800),
            (0x26F, 0x0605_0401_0006_0504),
            (0x3B, 0xFFFF_FFFF_FFFF_FF00), (0xC001_1029, 2),
        ] as [(UInt32, UInt64)])
    func goodWrites(number: UInt32, value: UInt64) throws {
        let machine = try long()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        try cpu.setMSR(number, value)
        #expect(try cpu.msr(number) == value)
    }

    @Test("RDMSR and WRMSR use EDX:EAX and clear the upper halves")
    func msrRegisters() throws {
        let machine = try long()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        cpu[0] = 0xFFFF_FFFF_1122_3344
        cpu[1] = 0xFFFF_FFFF_C000_0081
        cpu[2] = 0xFFFF_FFFF_5566_7788
        try cpu.writeMSR()
        #expect(cpu.fields.star == 0x5566_7788_1122_3344)
        try cpu.readMSR()
        #expect(cpu[0] == 0x1122_3344 && cpu[2] == 0x5566_7788)
    }

    // MARK: CPUID

    @Test(
        "CPUID offers exactly what the decoder's features allow",
        arguments: [
            (Feature.sse3, 1, 2, 0), (.ssse3, 1, 2, 9), (.cmpxchg16b, 1, 2, 13),
            (.sse4_1, 1, 2, 19),
            (.sse4_2, 1, 2, 20), (.movbe, 1, 2, 22), (.popcnt, 1, 2, 23), (.aes, 1, 2, 25),
            (.xsave, 1, 2, 26), (.rdrand, 1, 2, 30), (.fxsr, 1, 3, 24), (.sse, 1, 3, 25),
            (.sse2, 1, 3, 26), (.mmx, 1, 3, 23), (.cmov, 1, 3, 15), (.clflush, 1, 3, 19),
            (.fsgsbase, 7, 1, 0), (.bmi1, 7, 1, 3), (.bmi2, 7, 1, 8), (.invpcid, 7, 1, 10),
            (.smap, 7, 1, 20), (.adx, 7, 1, 19), (.rdpid, 7, 2, 22), (.lzcnt, 0x8000_0001, 2, 5),
            (.rdtscp, 0x8000_0001, 3, 27), (.monitor, 1, 2, 3), (.pclmulqdq, 1, 2, 1),
        ] as [(Feature, UInt32, Int, UInt32)])
    func features(feature: Feature, leaf: UInt32, register: Int, bit: UInt32) {
        for name in CPUModel.Name.allCases {
            let model = CPUModel(name)
            let values = CPUIDTable(id: 0, cpuCount: 1, model: model).leaf(leaf, 0)
            let word = [values.eax, values.ebx, values.ecx, values.edx][register]
            #expect((word & (1 << bit) != 0) == model.supports(feature))
        }
    }

    @Test("topology leaves agree on any number of CPUs", arguments: [1, 2, 3, 8, 255])
    func topology(count: Int) {
        for id in [0, count - 1] {
            let table = CPUIDTable(id: UInt32(id), cpuCount: count)
            let cores = table.leaf(0xB, 1)
            #expect(Int(cores.ebx) == count && cores.edx == UInt32(id))
            #expect(1 << cores.eax >= count && 1 << cores.eax < 2 * count + 1)
            #expect(table.leaf(0xB, 0).eax == 0 && table.leaf(0xB, 0).ebx == 1)
            #expect(table.leaf(0xB, 2).ecx == 2 && table.leaf(0xB, 2).ebx == 0)
            let sizes = table.leaf(0x8000_0008, 0)
            #expect(Int(sizes.ecx & 0xFF) == count - 1)
            #expect(sizes.ecx >> 12 & 15 == cores.eax)
            #expect(table.leaf(0x8000_001E, 0).eax == UInt32(id))
            #expect(table.leaf(1, 0).ebx >> 24 == UInt32(id))
            #expect((table.leaf(1, 0).edx >> 28 & 1 != 0) == (count > 1))
        }
    }

    @Test("vendor, brand, hypervisor signature, and nothing beyond the last leaves")
    func strings() {
        let table = CPUIDTable(id: 0, cpuCount: 1)
        func text(_ words: [UInt32]) -> String {
            String(
                decoding: words.flatMap { word in
                    (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) }
                }.filter { $0 != 0 }, as: UTF8.self)
        }
        let vendor = table.leaf(0, 0)
        #expect(text([vendor.ebx, vendor.edx, vendor.ecx]) == "AuthenticAMD")
        let brand = (0..<3).flatMap { (part: Int) -> [UInt32] in
            let leaf = table.leaf(0x8000_0002 + UInt32(part), 0)
            return [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
        }
        #expect(text(brand) == "Apus virtual processor")
        let kvm = table.leaf(0x4000_0000, 0)
        #expect(text([kvm.ebx, kvm.ecx, kvm.edx]) == "KVMKVMKVM")
        #expect(table.leaf(vendor.eax + 1, 0) == CPUIDLeaf())
        #expect(table.leaf(0x8000_0022, 0) == CPUIDLeaf())
        // Misaligned SSE, and its bit of MXCSR.
        #expect(
            (table.leaf(0x8000_0001, 0).ecx & 1 << 7 != 0)
                == (FXImage.supportedMXCSR & 1 << 17 != 0))
        #expect(table.leaf(0x4000_0002, 0) == CPUIDLeaf())
    }

    // MARK: Ports

    @Test("ports need IOPL or the TSS's bitmap")
    func ports() throws {
        let machine = try BareMachine()
        try machine.enterLong(cpl: 3)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.put(BareMachine.tss + 102, UInt16(0x68))
        #expect(refuses { () throws(Fault) in try cpu.portOut(0x80, size: 1, 1) })
        cpu.fields.segments[7].limit = 0x68 + 0x20
        machine.put(BareMachine.tss + 0x68 + 0x10, 0x02 as UInt8)
        try cpu.portOut(0x80, size: 1, 0x1FF)
        #expect(machine.surface.portWrites == [.init(address: 0x80, size: 1, value: 0xFF)])
        #expect(refuses { () throws(Fault) in try cpu.portOut(0x80, size: 2, 1) })
        #expect(refuses { () throws(Fault) in _ = try cpu.portIn(0x101, size: 1) })
        #expect(try cpu.portIn(0x7E, size: 2) == 0xA5A5)
        cpu.fields.systemFlags |= RFLAGS.iopl
        try cpu.portOut(0x81, size: 4, 1)
    }

    @Test(
        "what is refused is so before memory is looked at, port strings also if nothing is moved",
        arguments: [
            [0x6C], [0x6E], [0xF3, 0x6C], [0xF3, 0x6F], [0x66, 0xF3, 0x6D],  // ins, outs
            [0x0F, 0x01, 0x36], [0x0F, 0x00, 0x16], [0x0F, 0x00, 0x1E],  // lmsw, lldt, ltr
            [0x0F, 0x01, 0x3E], [0x66, 0x0F, 0x38, 0x82, 0x06],  // invlpg, invpcid
        ] as [[UInt8]])
    func refused(code: [UInt8]) throws {
        let machine = try BareMachine.running(code + [0xF4], cpl: 3)
        let cpu = machine.cpu
        // RSI and RDI lead nowhere, RCX is 0.
        (cpu[Register.rsi], cpu[Register.rdi], cpu[Register.rdx]) = (1 << 46, 1 << 46, 0x80)
        machine.put(BareMachine.tss + 102, UInt16(0x68))
        let start = cpu.rip
        machine.runUntilHalt()
        #expect(machine.exception?.vector == 13)
        #expect(machine.exception?.rip == start)
    }

    @Test("what translated code reads of system registers, and SWAPGS", arguments: [0, 3])
    func translated(cpl: UInt8) throws {
        let code: [UInt8] = [
            0x66, 0x8C, 0xD8, 0x66, 0x41, 0x8C, 0xE1,  // mov ax, ds; mov r9w, fs
            0x0F, 0x01, 0xF8,  // swapgs
            0x65, 0x48, 0x8B, 0x0C, 0x25, 0x00, 0x00, 0x00, 0x00,  // mov rcx, gs:[0]
            0x0F, 0x01, 0xF8,  // swapgs
            0x65, 0x48, 0x8B, 0x14, 0x25, 0x00, 0x00, 0x00, 0x00,  // mov rdx, gs:[0]
            0x0F, 0x20, 0xD3, 0x41, 0x0F, 0x20, 0xDA,  // mov rbx, cr2; mov r10, cr3
            0x0F, 0x20, 0xE7, 0x0F, 0x20, 0xC5, 0xF4,  // mov rdi, cr4; mov rbp, cr0; hlt
        ]
        var results: [[UInt64]] = []
        for threshold in [Int32(0), -1] {
            let machine = try BareMachine.running(code, cpl: cpl)
            let cpu = machine.cpu
            cpu.fields.translationThreshold = threshold
            machine.put(0x20_0000, 0x1122_3344_5566_7788 as UInt64)
            machine.put(0x30_0000, 0x99AA_BBCC_DDEE_FF00 as UInt64)
            cpu.fields.cr2 = 0xFFFF_8000_1234_5678
            (cpu[0], cpu[9]) = (UInt64.max, UInt64.max)
            try cpu.setSegmentBase(SegmentRegister.gs, 0x30_0000)
            cpu.fields.kernelGSBase = 0x20_0000
            machine.runUntilHalt()
            results.append(
                (UInt8(0)..<16).map { cpu[$0] } + [
                    machine.exception?.vector ?? 0, machine.exception?.rip ?? 0,
                    cpu.fields.kernelGSBase, cpu.segment(SegmentRegister.gs).base,
                ])
            if cpl == 0 {
                #expect(cpu[1] == 0x1122_3344_5566_7788 && cpu[2] == 0x99AA_BBCC_DDEE_FF00)
                #expect(cpu[3] == 0xFFFF_8000_1234_5678 && cpu[10] == cpu.fields.cr3)
                #expect(cpu[0] >> 16 == UInt64.max >> 16 && cpu[9] >> 16 == UInt64.max >> 16)
                if threshold == 0 { #expect(cpu.counters.interpreted <= 1, "but for HLT") }
            } else {
                #expect(machine.exception?.vector == 13)
            }
        }
        #expect(results[0] == results[1])
    }
}
