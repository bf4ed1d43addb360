import Accelerator
import Core
import Synchronization
import Testing

@testable import TCG

/// Guests that are run by `TCGVCPU.run`, assembled by hand.
@Suite("Guests that run")
struct BootTests {
    /// Ends a guest: OUT to port 0xF4 powers the machine off.
    static let powerOff: [UInt8] = [0xE6, 0xF4]

    func isPowerOff(_ exit: VCPUExit) -> Bool {
        if case .effect(.powerOff) = exit { return true }
        return false
    }

    @Test("from the reset vector through real and protected to long mode")
    func reset() throws {
        let machine = try BareMachine()
        // The reset vector is at FFFF_FFF0: no memory there, so start at F000:FFF0 of low memory.
        machine.vcpu.setInitialState(.reset)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        #expect(cpu.rip == 0xFFF0 && cpu.segment(SegmentRegister.cs).base == 0xFFFF_0000)
        cpu.loadRealSegment(SegmentRegister.cs, selector: 0xF000)
        cpu.updateMode()
        machine.put(0xF_FFF0, bytes: [0xEA, 0x00, 0x70, 0x00, 0x00])  // jmp 0000:7000
        machine.put(
            0x7000,
            bytes: [
                0x0F, 0x01, 0x16, 0x00, 0x78,  // lgdt [0x7800]
                0x0F, 0x20, 0xC0, 0x0C, 0x01, 0x0F, 0x22, 0xC0,  // cr0 |= PE
                0xEA, 0x12, 0x70, 0x18, 0x00,  // jmp 18:7012
                // 32-bit
                0x66, 0xB8, 0x10, 0x00, 0x8E, 0xD8, 0x8E, 0xD0,  // ds = ss = 10
                0x0F, 0x20, 0xE0, 0x83, 0xC8, 0x20, 0x0F, 0x22, 0xE0,  // cr4 |= PAE
                0xB8, 0x00, 0x00, 0x10, 0x00, 0x0F, 0x22, 0xD8,  // cr3 = 0x100000
                0xB9, 0x80, 0x00, 0x00, 0xC0, 0x0F, 0x32, 0x0D, 0x00, 0x01, 0x00, 0x00,
                0x0F, 0x30,  // efer |= LME
                0x0F, 0x20, 0xC0, 0x0D, 0x00, 0x00, 0x00, 0x80, 0x0F, 0x22, 0xC0,  // cr0 |= PG
                0xEA, 0x4B, 0x70, 0x00, 0x00, 0x08, 0x00,  // jmp 08:704B
                // 64-bit
                0x48, 0xB8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  // mov rax, ...
                0x48, 0x89, 0x04, 0x25, 0x00, 0x79, 0x00, 0x00,  // mov [0x7900], rax
            ] + Self.powerOff)
        machine.put(0x7800, UInt16(0x2F))
        machine.put(0x7802, UInt32(BareMachine.gdt))
        machine.setDescriptor(BareMachine.Selector.code64, 0x00AF_9A00_0000_FFFF)
        machine.setDescriptor(BareMachine.Selector.data, 0x00CF_9200_0000_FFFF)
        machine.setDescriptor(BareMachine.Selector.code32, 0x00CF_9A00_0000_FFFF)
        let tables = BareMachine.tables
        machine.put(tables, tables + 0x1003)
        machine.put(tables + 0x1000, tables + 0x2003)
        machine.put(tables + 0x2000, UInt64(0x83))
        #expect(isPowerOff(machine.vcpu.run()))
        #expect(machine.get(0x7900, as: UInt64.self) == 0x1122_3344_5566_7788)
        #expect(cpu.is64Bit)
    }

    @Test("a CPU that waits starts in real mode where the SIPI says, and IPIs wake both")
    func startUp() throws {
        let machine = try BareMachine(clock: .host, cpuCount: 2)
        try machine.enterLong()
        // CPU 1, at 8000: mov word [cs:100], 5A5A; hlt
        machine.put(0x8000, bytes: [0x2E, 0xC7, 0x06, 0x00, 0x01, 0x5A, 0x5A, 0xF4, 0xEB, 0xFD])
        machine.put(
            0x5000,
            bytes: [
                0xB9, 0x1B, 0x00, 0x00, 0x00, 0x0F, 0x32, 0x80, 0xCC, 0x0C, 0x0F, 0x30,  // x2APIC
                0xB9, 0x30, 0x08, 0x00, 0x00, 0xBA, 0x01, 0x00, 0x00, 0x00,  // ICR, CPU 1
                0xB8, 0x00, 0x45, 0x00, 0x00, 0x0F, 0x30,  // INIT
                0xB8, 0x08, 0x46, 0x00, 0x00, 0x0F, 0x30,  // SIPI 08
                // wait for CPU 1's word
                0x66, 0x81, 0x3C, 0x25, 0x00, 0x81, 0x00, 0x00, 0x5A, 0x5A, 0x75, 0xF4,
            ] + Self.powerOff)
        let second = machine.cpus[1]
        let result = Mutex<String>("")
        let thread = try Thread(name: "cpu1") {
            let exit = second.run()
            result.withLock { $0 = "\(exit)" }
        }
        #expect(isPowerOff(machine.vcpu.run()))
        #expect(machine.get(0x8100, as: UInt16.self) == 0x5A5A)
        second.kick()
        thread.join()
        #expect(result.withLock { $0 } == "kicked")
        #expect(second.cpu.segment(SegmentRegister.cs).base == 0x8000)
    }

    /// Code that counts in RBX and halts between timer interrupts, whose handler is at 0x6000.
    func timerGuest(_ machine: BareMachine, count: UInt8) throws {
        try machine.enterLong()
        machine.setGate64(0x40, 0x6000)
        machine.cpu.fields.cr4 |= CR4.pge
        machine.put(
            0x5000,
            bytes: [
                0xB9, 0x1B, 0x00, 0x00, 0x00, 0x0F, 0x32, 0x80, 0xCC, 0x0C, 0x0F, 0x30,  // x2APIC
                0x31, 0xD2, 0xB9, 0x0F, 0x08, 0x00, 0x00, 0xB8, 0xFF, 0x01, 0x00, 0x00, 0x0F, 0x30,
                0xB9, 0x32, 0x08, 0x00, 0x00, 0xB8, 0x40, 0x00, 0x02, 0x00, 0x0F, 0x30,  // periodic
                0xB9, 0x3E, 0x08, 0x00, 0x00, 0xB8, 0x0B, 0x00, 0x00, 0x00, 0x0F, 0x30,  // by 1
                0xB9, 0x38, 0x08, 0x00, 0x00, 0xB8, 0x10, 0x27, 0x00, 0x00, 0x0F, 0x30,  // 10000
                0x31, 0xDB,  // xor ebx, ebx
                0xFB, 0xF4,  // sti; hlt
                0x80, 0xFB, count, 0x72, 0xF9,  // cmp bl, count; jb back to sti
            ] + Self.powerOff)
        // inc ebx; rdtsc; mov r8d, eax; EOI; iretq
        machine.put(
            0x6000,
            bytes: [
                0xFF, 0xC3, 0x0F, 0x31, 0x41, 0x89, 0xC0, 0x31, 0xC0, 0x31, 0xD2, 0xB9, 0x0B, 0x08,
                0x00, 0x00, 0x0F, 0x30, 0x48, 0xCF,
            ])
    }

    @Test("counted time: a halted CPU skips to its timer, exactly and repeatably")
    func countedTimer() throws {
        var ends: [UInt64] = []
        for _ in 0..<2 {
            let machine = try BareMachine(clock: .counted)
            try timerGuest(machine, count: 50)
            #expect(isPowerOff(machine.vcpu.run()))
            #expect(machine.cpu[3] == 50)
            ends.append(machine.cpu[8])
            ends.append(machine.vcpu.retiredInstructions)
        }
        #expect(ends[0] == ends[2] && ends[1] == ends[3])
        // 50 periods of 10,000 ns since the timer was started some instructions in; the handler
        // reads the TSC within its first two instructions.
        #expect(ends[0] >= 500_000 && ends[0] < 500_100)
    }

    @Test("host time: timers interrupt a halted and a running CPU")
    func hostTimer() throws {
        let machine = try BareMachine(clock: .host)
        try timerGuest(machine, count: 20)
        #expect(isPowerOff(machine.vcpu.run()))
        // One more may come on the way to the power switch.
        #expect(machine.cpu[3] >= 20)
        // The same without HLT: nop instead, so the timer thread must do it.
        let busy = try BareMachine(clock: .host)
        try timerGuest(busy, count: 20)
        busy.put(0x5000 + 65, 0x90 as UInt8)
        #expect(busy.get(0x5000 + 64, as: UInt8.self) == 0xFB)
        #expect(isPowerOff(busy.vcpu.run()))
        #expect(busy.cpu[3] >= 20)
    }

    @Test("counted time: a timer interrupts a loop at exactly its instruction")
    func exactTimer() throws {
        let machine = try BareMachine(clock: .counted)
        try machine.enterLong()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setGate64(0x40, 0x6000)
        machine.put(0x5000, bytes: [0xFF, 0xC3, 0x90, 0x90, 0xEB, 0xFA])  // inc ebx; nop; nop; jmp
        machine.put(0x6000, bytes: Self.powerOff)
        try cpu.setMSR(0x1B, 0xFEE0_0D00)
        try cpu.setMSR(0x80F, 0x1FF)
        try cpu.setMSR(0x832, 0x4_0040)
        cpu.fields.systemFlags |= RFLAGS.interruptEnable
        // After 4 * 1000 + 2 instructions.
        try cpu.setMSR(0x6E0, 4002)
        #expect(isPowerOff(machine.vcpu.run()))
        #expect(cpu[3] == 1001)
        #expect(machine.frame64(cpu[4], count: 1) == [0x5003])
    }

    @Test("STI holds interrupts back for one instruction, and a window of one NOP is enough")
    func interruptWindow() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setGate64(0x40, 0x6000)
        machine.put(
            0x5000,
            bytes: [0xFB, 0xFA, 0xFF, 0xC3, 0xFB, 0x90, 0xFA, 0xFF, 0xC3] + Self.powerOff)
        machine.put(0x6000, bytes: Self.powerOff)
        try cpu.setMSR(0x1B, 0xFEE0_0D00)
        try cpu.setMSR(0x80F, 0x1FF)
        machine.vcpu.apic.deliver(.fixed, vector: 0x40, isLevel: false)
        #expect(isPowerOff(machine.vcpu.run()))
        // sti; cli lets nothing in; sti; nop; cli does, after the nop.
        #expect(cpu[3] == 1)
        #expect(machine.frame64(cpu[4], count: 1) == [0x5006])
    }

    @Test("what comes right behind STI, before translated code has begun, has to wait as well")
    func lateInterrupt() throws {
        let machine = try BareMachine.running([0x90, 0xFA, 0xF4])  // nop; cli; hlt
        let cpu = machine.cpu
        machine.runUntilHalt()
        #expect(cpu.rip == BareMachine.code + 3)
        // The block is translated now. As behind STI:
        cpu.rip = BareMachine.code
        cpu.fields.isHalted = false
        let cache = try #require(cpu.makeCodeCache())
        machine.vcpu.block.ring()
        _ = cpu.stepInShadow(cache)
        #expect(cpu.rip == BareMachine.code)
        #expect(cpu.fields.interruptShadow == 1)
        machine.vcpu.block.clearExitRequest()
        cpu.fields.interruptShadow = 0
        _ = cpu.stepInShadow(cache)
        #expect(cpu.rip > BareMachine.code)
        #expect(cpu.fields.interruptShadow == 0)
    }

    @Test("an NMI is taken with IF clear, and the next only after IRET")
    func nonMaskable() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setGate64(2, 0x6000)
        machine.put(0x5000, bytes: [0x90, 0xEB, 0xFD])
        try cpu.setMSR(0x1B, 0xFEE0_0D00)
        machine.put(
            0x6000,
            bytes: [
                0xFF, 0xC3, 0x83, 0xFB, 0x02, 0x74, 0x12,  // inc ebx; cmp ebx, 2; je off
                // An NMI to itself, by the ICR.
                0xB9, 0x30, 0x08, 0x00, 0x00, 0x31, 0xD2, 0xB8, 0x00, 0x44, 0x00, 0x00, 0x0F, 0x30,
                0x89, 0xDE, 0x48, 0xCF,  // mov esi, ebx; iretq
            ] + Self.powerOff)
        machine.vcpu.apic.deliver(.nmi, vector: 0, isLevel: false)
        #expect(isPowerOff(machine.vcpu.run()))
        #expect(cpu[3] == 2 && cpu[6] == 1)
        #expect(cpu.fields.isNMIBlocked)
        // Both came from the loop: the second did not interrupt the first's handler.
        #expect(machine.frame64(cpu[4], count: 1)[0] & ~3 == 0x5000)
    }

    @Test("two NMIs at once are both taken; while one is served a single one is kept")
    func latchedNMI() throws {
        let cases: [(Int, Int, UInt64)] = [(2, 0, 2), (3, 0, 2), (1, 2, 2)]
        for (together, served, expected) in cases {
            let machine = try BareMachine()
            try machine.enterLong()
            let cpu = machine.cpu
            machine.setGate64(2, 0x6000)
            machine.put(0x5000, bytes: [0x90] + Self.powerOff)
            machine.put(0x6000, bytes: [0xFF, 0xC3, 0x48, 0xCF])  // inc ebx; iretq
            let apic = machine.vcpu.apic
            for _ in 0..<together { apic.deliver(.nmi, vector: 0, isLevel: false) }
            if served > 0 {
                _ = cpu.serviceInterrupts()
                #expect(cpu.fields.isNMIBlocked)
                for _ in 0..<served { apic.deliver(.nmi, vector: 0, isLevel: false) }
            }
            #expect(isPowerOff(machine.vcpu.run()))
            #expect(cpu[3] == expected)
        }
    }

    @Test("a single step ends HLT")
    func stepOverHalt() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        machine.setGate64(1, 0x6000)
        // push 102; popf; hlt; then power off
        machine.put(0x5000, bytes: [0x68, 0x02, 0x01, 0x00, 0x00, 0x9D, 0xF4] + Self.powerOff)
        // inc ecx; and dword [rsp + 16], ~100; iretq
        machine.put(
            0x6000,
            bytes: [0xFF, 0xC1, 0x81, 0x64, 0x24, 0x10, 0xFF, 0xFE, 0xFF, 0xFF, 0x48, 0xCF])
        #expect(isPowerOff(machine.vcpu.run()))
        #expect(machine.cpu[1] == 1)
        #expect(machine.cpu.fields.debugRegisters[6] & DR6.bs != 0)
    }

    @Test("SYSRET traps when it sets TF, SYSCALL does not when it clears TF")
    func stepSystemCall() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        let cpu = machine.cpu
        machine.setGate64(1, 0x6000)
        try cpu.setMSR(0xC000_0081, UInt64(0x1B) << 48 | UInt64(BareMachine.Selector.code64) << 32)
        try cpu.setMSR(0xC000_0082, 0x5800)
        try cpu.setMSR(0xC000_0084, RFLAGS.tf)
        (cpu[1], cpu[11]) = (0x5400, 0x102)
        machine.put(0x5000, bytes: [0x48, 0x0F, 0x07])  // sysretq
        machine.put(0x5400, bytes: [0x0F, 0x05])  // syscall, stepped
        machine.put(0x5800, bytes: [0x90] + Self.powerOff)
        // inc ebx; mov rdx, [rsp]; iretq, which keeps TF
        machine.put(0x6000, bytes: [0xFF, 0xC3, 0x48, 0x8B, 0x14, 0x24, 0x48, 0xCF])
        #expect(isPowerOff(machine.vcpu.run()))
        #expect(cpu[3] == 1 && cpu[2] == 0x5400)
    }

    @Test("a single step traps after every instruction, and after IRETQ one later")
    func singleStep() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setGate64(1, 0x6000)
        // Set TF by POPF: push 0x102; popf; inc ebx; inc ebx; then clear by the handler's count.
        machine.put(
            0x5000,
            bytes: [0x68, 0x02, 0x01, 0x00, 0x00, 0x9D, 0xFF, 0xC3, 0xFF, 0xC3] + Self.powerOff)
        // Handler: inc ecx; mov rdx, [rsp]; iretq
        machine.put(0x6000, bytes: [0xFF, 0xC1, 0x48, 0x8B, 0x14, 0x24, 0x48, 0xCF])
        #expect(isPowerOff(machine.vcpu.run()))
        // After both INCs, and after the OUT which comes before the exit is noticed.
        #expect(cpu[3] == 2)
        #expect(cpu[1] >= 2)
        #expect(cpu[2] >= 0x500A)
        #expect(cpu.fields.debugRegisters[6] & DR6.bs != 0)
    }

    @Test("a kick before run makes it return at once, and kicks are not lost")
    func kicks() throws {
        let machine = try BareMachine(clock: .host)
        try machine.enterLong()
        machine.put(0x5000, bytes: [0xF4, 0xEB, 0xFD])  // hlt for ever, interrupts off
        let vcpu = machine.vcpu
        vcpu.kick()
        #expect("\(vcpu.run())" == "kicked")
        let count = Atomic<Int>(0)
        let thread = try Thread(name: "kick") {
            for _ in 0..<200 {
                let seen = count.load(ordering: .acquiring)
                vcpu.kick()
                while count.load(ordering: .acquiring) == seen {}
            }
        }
        for _ in 0..<200 {
            #expect("\(vcpu.run())" == "kicked")
            count.add(1, ordering: .releasing)
        }
        thread.join()
    }
}
