import Accelerator
import Core
import Glibc
import Synchronization
import Testing

@testable import TCG

/// What CPUs hear of each other's writes to code, and when (CodePageMap.swift).
@Suite("Code that another CPU writes")
struct CodePageTests {
    /// CPUs in 64-bit mode at `BareMachine.code`. Nothing runs but what a test runs.
    private func machine(cpuCount: Int, _ code: [UInt8]) throws -> BareMachine {
        let machine = try BareMachine(cpuCount: cpuCount)
        try machine.enterLong()
        machine.put(BareMachine.code, bytes: code)
        return machine
    }

    private func run(_ machine: BareMachine) {
        machine.cpu.rip = BareMachine.code
        machine.cpu.fields.isHalted = false
        machine.runUntilHalt()
    }

    private func hasNews(_ cpu: TCGVCPU) -> Bool {
        cpu.apic.codeMayHaveChanged.load(ordering: .relaxed)
    }

    @Test("what an interrupt was sent behind is looked at before its handler runs")
    func noticeBeforeInterrupt() throws {
        let machine = try machine(cpuCount: 2, [0xF4])
        let (vcpu, cpu) = (machine.vcpu, machine.cpu)
        machine.setGate64(0x40, BareMachine.handler)
        vcpu.apic.with { _ = $0.write(APICRegister.spurious, 0x1FF, now: 0) }
        cpu.fields.systemFlags |= RFLAGS.interruptEnable
        let rounds = 2000
        let taken = Atomic<Int>(0)
        // Code is changed, and then the interrupt is sent.
        let sender = try Thread(name: "sender") {
            for round in 0..<rounds {
                while taken.load(ordering: .acquiring) != round {}
                vcpu.apic.codeMayHaveChanged.store(true, ordering: .sequentiallyConsistent)
                vcpu.apic.deliver(.fixed, vector: 0x40, isLevel: false)
            }
        }
        var late = 0
        for round in 1...rounds {
            cpu.rip = BareMachine.code
            cpu[4] = BareMachine.stack - 0x800
            cpu.fields.systemFlags |= RFLAGS.interruptEnable
            while cpu.rip != BareMachine.handler { _ = cpu.serviceInterrupts() }
            if vcpu.apic.codeMayHaveChanged.exchange(false, ordering: .relaxed) { late += 1 }
            vcpu.apic.with { _ = $0.write(APICRegister.endOfInterrupt, 0, now: 0) }
            taken.store(round, ordering: .releasing)
        }
        sender.join()
        #expect(late == 0, "of \(rounds)")
    }

    // SDM volume 3, section 10.3.
    @Test(
        "a serializing instruction ends its block",
        arguments: [
            [0x0F, 0xA2], [0x0F, 0x08], [0x0F, 0x09],  // cpuid, invd, wbinvd
            [0x0F, 0x22, 0xD8], [0x0F, 0x23, 0xC0],  // mov cr3, rax; mov dr0, rax
            [0x0F, 0x01, 0x38], [0x0F, 0x01, 0x10], [0x0F, 0x01, 0x18],  // invlpg, lgdt, lidt
            [0x0F, 0x00, 0xD0], [0x0F, 0x00, 0xD8], [0x0F, 0x30], [0x48, 0xCF],  // lldt, ltr, wrmsr
        ] as [[UInt8]])
    func serializing(instruction: [UInt8]) throws {
        let machine = try machine(cpuCount: 2, instruction + [0x90, 0x90, 0xF4])
        let cache = try #require(machine.cpu.makeCodeCache())
        let block = try machine.cpu.findBlock(cache, single: false)
        #expect(block.count == 1)
    }

    @Test("a CPU's mark stays until it has been told of what was written")
    func markStays() throws {
        let machine = try machine(cpuCount: 3, [0xB0, 0x01, 0xF4])
        let bit = machine.vcpu.apic.bit
        let (second, third) = (machine.cpus[1].cpu, machine.cpus[2].cpu)
        run(machine)
        // One CPU is in the middle of a write while another makes all of one.
        let others = second.prepareWrite(physical: BareMachine.code + 0x800, count: 1)
        #expect(others == bit)
        #expect(third.prepareWrite(physical: BareMachine.code + 1, count: 1) == bit)
        machine.put(BareMachine.code + 1, UInt8(2))
        third.announce(bit, physical: BareMachine.code + 1)
        #expect(hasNews(machine.vcpu))
        #expect(machine.cpu.hasExitRequest)
        #expect(!machine.cpu.hasCode(physical: BareMachine.code), "writes are fast again")
        run(machine)
        #expect(machine.cpu[0] & 0xFF == 2)
        // The first one has finished its write after that.
        second.announce(others, physical: BareMachine.code + 0x800)
        #expect(hasNews(machine.vcpu))
    }

    @Test("more pages than are listed are all unsettled")
    func manyPages() {
        var list = PageList()
        #expect(list.isEmpty && !list.contains(0))
        for page in 0..<16 as Range<UInt64> { list.insert(2 * page) }
        list.insert(30)
        #expect(list.contains(30) && !list.contains(31))
        list.insert(32)
        #expect(list.contains(31))
    }

    @Test("while another CPU may be in the middle of a block, code is decoded anew each time")
    func unsettled() throws {
        let machine = try machine(cpuCount: 2, [0xB0, 0x01, 0x00, 0xC3, 0xF4])
        let other = machine.cpus[1]
        other.block.isRunning = true
        run(machine)
        #expect(machine.cpu[0] & 0xFF == 1)
        // The other one has looked into its TLB before, and tells nobody.
        machine.put(BareMachine.code + 1, UInt8(2))
        run(machine)
        #expect(machine.cpu[0] & 0xFF == 2)
        // Each instruction may change the next one.
        #expect(machine.cpu.hasCode(physical: BareMachine.code))
        #expect(other.cpu.hasExitRequest)
        _ = other.cpu.serviceInterrupts()
        run(machine)
        #expect(!machine.cpu.isUnsettled(physical: BareMachine.code))
        machine.put(BareMachine.code + 1, UInt8(3))
        run(machine)
        #expect(machine.cpu[0] & 0xFF == 2, "decoded once, and nobody has told")
    }

    @Test("a CPU that marks the page as well waits for the same block; one that stops has left it")
    func unsettledForAll() throws {
        let machine = try machine(cpuCount: 3, [0xB0, 0x01, 0xF4])
        let (second, other) = (machine.cpus[1].cpu, machine.cpus[2])
        other.block.isRunning = true
        machine.cpu.markCode(physical: 0x20_0000)
        second.markCode(physical: 0x20_0000)
        #expect(machine.cpu.isUnsettled(physical: 0x20_0000))
        #expect(second.isUnsettled(physical: 0x20_0000))
        #expect(!second.isUnsettled(physical: 0x20_1000))
        other.block.isRunning = false
        #expect(!machine.cpu.isUnsettled(physical: 0x20_0000))
        #expect(!second.isUnsettled(physical: 0x20_0000))
    }

    // MARK: Accessed and dirty bits

    @Test(
        "a walk that sets bits of an entry changes the code that the entry is", arguments: [-1, 0])
    func walkChangesCode(threshold: Int32) throws {
        let machine = try BareMachine.running([])
        machine.cpu.fields.translationThreshold = threshold
        // The entries for 4 and 6 MiB: mov [rdi], eax, six NOPs; 87 00, xchg [rax], eax, which
        // becomes E7 00, out 0, eax, and an undefined instruction.
        let entry = BareMachine.tables + 0x2010
        machine.put(entry, bytes: [0x89, 0x07, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90])
        machine.cpu[7] = 0x60_0000
        machine.cpu[0] = 0x60_0000
        machine.cpu.rip = entry
        machine.runUntilHalt()
        #expect(machine.get(entry + 8, as: UInt8.self) == 0xE7)
        #expect(machine.surface.portWrites == [.init(address: 0, size: 4, value: 0x60_0000)])
        #expect(machine.exception?.vector == 6)
    }

    @Test("a walk that sets bits of an entry tells the CPUs that have code there")
    func walkTells() throws {
        let machine = try machine(cpuCount: 2, [])
        let entry = BareMachine.tables + 0x2010
        machine.put(entry, UInt64(0xF4))
        machine.cpu.rip = entry
        machine.runUntilHalt()
        let other = machine.cpus[1]
        other.setInitialState(
            .linux64(
                entry: 0, bootParameters: 0, pageTables: BareMachine.tables,
                gdt: .init(base: BareMachine.gdt, limit: 0x1FF), stack: 0x8000))
        try other.cpu.store(0x60_0000, UInt8(1))
        #expect(machine.get(entry + 8, as: UInt8.self) == 0xE7)
        #expect(hasNews(machine.vcpu))
    }

    // MARK: LOCK

    @Test("a LOCKed access across cache lines waits for the bus lock", arguments: [0, 7])
    func splitLock(offset: UInt64) throws {
        // lock inc dword [rdi]
        let machine = try machine(cpuCount: 2, [0xF0, 0xFF, 0x07, 0xF4])
        let (vcpu, operand) = (machine.vcpu, 0x20_003E + offset * 0x40)
        vcpu.cpu[7] = operand
        vcpu.cpu.budget = 1000
        vcpu.core.busLock.lock()
        let thread = try Thread(name: "split") { vcpu.cpu.execute() }
        usleep(50_000)
        #expect(machine.get(operand, as: UInt32.self) == 0)
        vcpu.core.busLock.unlock()
        thread.join()
        #expect(machine.get(operand, as: UInt32.self) == 1)
    }
}
