import Testing

@testable import TCG

@Suite("Local APIC")
struct APICTests {
    /// CPUs in 64-bit mode with their APICs on, in x2APIC mode.
    func machine(cpuCount: Int = 1, x2: Bool = true) throws -> BareMachine {
        let machine = try BareMachine(cpuCount: cpuCount)
        try machine.enterLong()
        for vcpu in machine.cpus {
            if x2 { try vcpu.cpu.setMSR(0x1B, vcpu.apic.base | 0xC00) }
            vcpu.apic.with { _ = $0.write(APICRegister.spurious, 0x1FF, now: 0) }
            vcpu.isWaitingForStartUp = false
        }
        return machine
    }

    func requested(_ vcpu: TCGVCPU, _ vector: UInt8) -> Bool {
        vcpu.apic.with { $0.requested[vector] }
    }

    @Test("the highest priority class above the processor's goes first; EOI lets the next go")
    func priorities() throws {
        let machine = try machine()
        let apic = machine.vcpu.apic
        for vector in [UInt8(0x31), 0x5F, 0x42, 0x50] {
            apic.deliver(.fixed, vector: vector, isLevel: false)
        }
        #expect(apic.acknowledge() == 0x5F)
        #expect(apic.acknowledge() == nil)  // 0x50 has the same class
        #expect(try machine.cpu.msr(0x80A) == 0x50)
        apic.deliver(.fixed, vector: 0x61, isLevel: false)
        #expect(apic.acknowledge() == 0x61)
        try machine.cpu.setMSR(0x80B, 0)
        #expect(apic.acknowledge() == nil)
        try machine.cpu.setMSR(0x80B, 0)
        #expect(apic.acknowledge() == 0x50)
        try machine.cpu.setMSR(0x80B, 0)
        try machine.cpu.writeControlRegister(8, 4)
        #expect(try machine.cpu.msr(0x808) == 0x40)
        #expect(apic.acknowledge() == nil)  // 0x42 is in class 4
        try machine.cpu.writeControlRegister(8, 3)
        #expect(apic.acknowledge() == 0x42)
        #expect(try machine.cpu.readControlRegister(8) == 3)
    }

    @Test("an EOI of a level-triggered interrupt is told to the I/O APIC, no other")
    func endOfInterrupt() throws {
        let machine = try machine()
        let apic = machine.vcpu.apic
        apic.deliver(.fixed, vector: 0x41, isLevel: true)
        apic.deliver(.fixed, vector: 0x51, isLevel: false)
        #expect(try machine.cpu.msr(0x81A) == 2)  // TMR of 0x40...0x5F
        #expect(apic.acknowledge() == 0x51)
        try machine.cpu.setMSR(0x80B, 0)
        #expect(apic.acknowledge() == 0x41)
        try machine.cpu.setMSR(0x80B, 0)
        try machine.cpu.setMSR(0x80B, 0)
        #expect(machine.surface.endOfInterrupts == [0x41])
    }

    @Test("a disabled APIC takes no interrupts, but NMIs")
    func disabled() throws {
        let machine = try BareMachine()
        let apic = machine.vcpu.apic
        apic.deliver(.fixed, vector: 0x41, isLevel: false)
        #expect(!requested(machine.vcpu, 0x41))
        apic.deliver(.nmi, vector: 0, isLevel: false)
        #expect(apic.takeEvents().nmiCount == 1)
        // Clearing the enable bit masks the local vector table.
        let enabled = try self.machine()
        try enabled.cpu.setMSR(0x835, 0x10700)
        try enabled.cpu.setMSR(0x835, 0x700)
        try enabled.cpu.setMSR(0x80F, 0xFF)
        #expect(try enabled.cpu.msr(0x835) == 0x10700)
    }

    @Test(
        "ICR: physical, logical and shorthand destinations",
        arguments: [
            (0x0000_0002_0000_0045, [2]), (0xFFFF_FFFF_0000_0045, [0, 1, 2]),
            (0x0000_0005_0000_0845, [0, 2]), (0x0004_0045, [0]), (0x0008_0045, [0, 1, 2]),
            (0x000C_0045, [1, 2]), (0x0000_0006_0000_0945, [1]), (0x0001_0002_0000_0845, []),
        ] as [(UInt64, [Int])])
    func commands(command: UInt64, expected: [Int]) throws {
        let machine = try machine(cpuCount: 3)
        try machine.cpu.setMSR(0x830, command)
        #expect(machine.cpus.indices.filter { requested(machine.cpus[$0], 0x45) } == expected)
    }

    @Test("xAPIC: the register page, flat and cluster destinations")
    func xAPIC() throws {
        let machine = try machine(cpuCount: 3, x2: false)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        // A page table entry for the page at 2 MiB; the machine has no mapping at FEE0_0000.
        machine.put(BareMachine.tables + 0x2008, UInt64(0xFEE0_0083))
        let base: UInt64 = 0x20_0000
        #expect(try cpu.load(base + 0x30, as: UInt32.self) == 0x5_0014)
        #expect(try cpu.load(base + 0x20, as: UInt32.self) == 0)
        for (index, vcpu) in machine.cpus.enumerated() {
            vcpu.apic.with {
                _ = $0.write(APICRegister.logicalDestination, 1 << (24 + UInt64(index)), now: 0)
            }
        }
        try cpu.store(base + 0x310, 0x0600_0000 as UInt32)
        try cpu.store(base + 0x300, 0x0000_0846 as UInt32)
        #expect(!requested(machine.cpus[0], 0x46))
        #expect(requested(machine.cpus[1], 0x46) && requested(machine.cpus[2], 0x46))
        // Cluster model: cluster 1, member bits.
        for (index, vcpu) in machine.cpus.enumerated() {
            vcpu.apic.with {
                _ = $0.write(APICRegister.destinationFormat, 0, now: 0)
                _ = $0.write(
                    APICRegister.logicalDestination, (0x10 | 1 << UInt64(index)) << 24, now: 0)
            }
        }
        try cpu.store(base + 0x310, 0x1400_0000 as UInt32)
        try cpu.store(base + 0x300, 0x0000_0847 as UInt32)
        #expect(!requested(machine.cpus[1], 0x47) && requested(machine.cpus[2], 0x47))
        #expect(try cpu.load(base + 0x300, as: UInt32.self) == 0x847)
        #expect(machine.surface.reads.isEmpty && machine.surface.writes.isEmpty)
        // Turned off, the page belongs to the bus.
        try cpu.setMSR(0x1B, 0xFEE0_0100)
        _ = try cpu.load(base + 0x30, as: UInt32.self)
        #expect(machine.surface.reads.count == 1)
    }

    @Test("MSI: destination, mode and vector; lowest priority picks an idle CPU")
    func messages() throws {
        let machine = try machine(cpuCount: 3)
        machine.machine.signalMSI(address: 0xFEE0_1000, data: 0x52)
        #expect(requested(machine.cpus[1], 0x52))
        try machine.cpu.setMSR(0x808, 0x80)
        machine.machine.signalMSI(address: 0xFEE0_500C, data: 0x153)
        #expect(requested(machine.cpus[2], 0x53) && !requested(machine.cpus[0], 0x53))
        machine.machine.signalMSI(address: 0xFEEF_F000, data: 0x54)
        #expect(machine.cpus.allSatisfy { requested($0, 0x54) })
    }

    @Test("errors: illegal vectors set the status, and its interrupt comes once")
    func errors() throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        try cpu.setMSR(0x837, 0x48)
        try cpu.setMSR(0x83F, 3)
        #expect(try cpu.msr(0x828) == 0)
        try cpu.setMSR(0x828, 0)
        #expect(try cpu.msr(0x828) == 0x20)
        #expect(requested(machine.vcpu, 0x48))
        try cpu.setMSR(0x828, 0)
        #expect(try cpu.msr(0x828) == 0)
    }

    @Test(
        "x2APIC registers that are #GP",
        arguments: [
            (0x802, nil), (0x803, nil), (0x80E, 0), (0x80B, 1), (0x80A, 0), (0x80D, 0), (0x810, 0),
            (0x828, 1), (0x831, nil), (0x831, 0), (0x83F, 0x100), (0x808, 0x100), (0x840, nil),
            (0x832, 1 << 20), (0x839, 0),
        ] as [(UInt32, UInt64?)])
    func illegal(number: UInt32, value: UInt64?) throws {
        let machine = try self.machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        let result = fault { () throws(Fault) in
            if let value { try cpu.setMSR(number, value) } else { _ = try cpu.msr(number) }
        }
        // The id and version can be read, of course.
        let isReadable = value == nil && (number == 0x802 || number == 0x803)
        #expect(result == (isReadable ? nil : .generalProtection(0)))
    }

    @Test("APIC_BASE: which changes of mode are allowed")
    func modes() throws {
        let machine = try BareMachine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        func set(_ bits: UInt64) -> Bool {
            fault { () throws(Fault) in try cpu.setMSR(0x1B, 0xFEE0_0100 | bits) } == nil
        }
        #expect(set(0xC00))
        #expect(!set(0x800))
        #expect(set(0))
        #expect(!set(0xC00))
        #expect(set(0x800))
        #expect(set(0xC00))
        #expect(!set(0x400))
    }

    // MARK: Timer

    /// Whether a timer fires at a time.
    func fires(_ timer: inout APICTimer, _ now: UInt64) -> Bool { timer.fire(now) }

    @Test("timer modes: when they fire, and what the count reads")
    func timer() {
        var timer = APICTimer()
        timer.setDivideConfiguration(0xB, now: 0)  // by 1
        timer.setInitialCount(1000, now: 50)
        #expect(timer.currentCount(51) == 999)
        var results = [fires(&timer, 1049), fires(&timer, 1050), fires(&timer, 5000)]
        #expect(results == [false, true, false])
        #expect(timer.currentCount(5000) == 0)
        timer.setDivideConfiguration(3, now: 0)  // by 16
        timer.setMode(.periodic)
        timer.setInitialCount(10, now: 0)
        #expect(timer.deadline == 160)
        results = [fires(&timer, 170)]
        #expect(results == [true] && timer.deadline == 320)
        results = [fires(&timer, 1000)]
        #expect(results == [true] && timer.deadline == 1120)
        #expect(timer.currentCount(1100) == 2)
        timer.setMode(.deadline)
        #expect(timer.deadline == UInt64.max)
        timer.setInitialCount(10, now: 0)
        #expect(timer.deadline == UInt64.max)
        timer.setDeadline(77)
        results = [fires(&timer, 76), fires(&timer, 77)]
        #expect(results == [false, true] && timer.deadline == UInt64.max)
    }

    @Test("a one-shot timer that has run out stays so when its mode becomes periodic")
    func expiredTimer() throws {
        var registers = APICRegisters(id: 0, isBootstrap: true)
        _ = registers.write(APICRegister.spurious, 0x1FF, now: 0)
        _ = registers.write(APICRegister.timer, 0x40, now: 0)
        _ = registers.write(APICRegister.initialCount, 100, now: 0)
        _ = registers.write(APICRegister.timer, 0x2_0040, now: 1000)
        #expect(registers.requested[0x40])
        #expect(registers.read(APICRegister.currentCount, now: 1001) == 0)
        registers.fireTimer(5000)
        #expect(registers.read(APICRegister.currentCount, now: 5000) == 0)
    }

    @Test("TSC_DEADLINE follows TSC_ADJUST, reads back, and reads 0 once it has fired")
    func deadline() throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        try cpu.setMSR(0x6E0, 5000)
        #expect(try cpu.msr(0x6E0) == 0)  // not in that mode
        try cpu.setMSR(0x832, 0x4_0050)
        try cpu.setMSR(0x3B, 1_000_000)
        try cpu.setMSR(0x6E0, 1_005_000)
        #expect(try cpu.msr(0x6E0) == 1_005_000)
        #expect(cpu.budget == Int64(5000 - cpu.fields.retired))
        cpu.fields.retired = 5000
        machine.vcpu.apic.advanceTimer(to: machine.vcpu.guestTime())
        #expect(requested(machine.vcpu, 0x50))
        #expect(try cpu.msr(0x6E0) == 0)
    }

    // MARK: Clocks

    @Test("the KVM clock's page: 1 GHz, stable, even version")
    func clockPage() throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        cpu.fields.retired = 123_456
        try cpu.setMSR(0x3B, 1000)
        try cpu.setMSR(0x4B56_4D01, 0x6001)
        let version = machine.get(0x6000, as: UInt32.self)
        #expect(version & 1 == 0 && version > 0)
        #expect(machine.get(0x6008, as: UInt64.self) == 124_456)
        #expect(machine.get(0x6010, as: UInt64.self) == 123_456)
        #expect(machine.get(0x6018, as: UInt32.self) == 0x8000_0000)
        #expect(machine.get(0x601C, as: UInt32.self) == 0x0101)
        // A new TSC offset is written through.
        try cpu.setMSR(0x10, 5)
        #expect(machine.get(0x6008, as: UInt64.self) == 5)
        #expect(machine.get(0x6000, as: UInt32.self) == version + 2)
        try cpu.setMSR(0x4B56_4D00, 0x6100)
        #expect(machine.get(0x6104, as: UInt32.self) == 1_767_225_600)
        #expect(try cpu.msr(0x4B56_4D01) == 0x6001)
        // An address that is no memory harms nobody.
        try cpu.setMSR(0x4B56_4D01, 0xFFFF_FFFF_FFFF_F001)
    }

    @Test("WRMSR TSC and TSC_ADJUST move together")
    func timestamp() throws {
        let machine = try self.machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        cpu.fields.retired = 100
        #expect(try cpu.msr(0x10) == 100)
        try cpu.setMSR(0x10, 50)
        #expect(try cpu.msr(0x3B) == UInt64(bitPattern: -50))
        #expect(try cpu.rdtsc() == 50)
        try cpu.setMSR(0x3B, 0)
        #expect(try cpu.rdtsc() == 100)
    }
}
