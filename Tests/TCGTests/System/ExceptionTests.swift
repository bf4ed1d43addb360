import Accelerator
import Testing

@testable import TCG

private typealias Selector = BareMachine.Selector

@Suite("Exceptions and interrupts")
struct ExceptionTests {
    /// Where the frame of a handler of an inner level ends.
    static let top = BareMachine.stack

    // MARK: Long mode

    @Test("64-bit, same level: aligned stack, SS:RSP always pushed")
    func longSameLevel() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setGate64(13, 0xFFFF_8000_1234_5678)
        cpu[4] = 0x8808 + 5
        cpu.setFlags(0x246)
        cpu.rip = 0x1122_3344
        cpu.deliver(.generalProtection(0x58))
        #expect(cpu.rip == 0xFFFF_8000_1234_5678)
        #expect(cpu[4] == 0x8800 - 48)
        #expect(
            machine.frame64(0x8800 - 48, count: 6) == [
                0x58, 0x1122_3344, UInt64(Selector.code64), 0x1_0246, 0x880D, UInt64(Selector.data),
            ])
        #expect(cpu.rflags & 0x1_0300 == 0)
        #expect(cpu.segment(SegmentRegister.ss).selector == Selector.data)
    }

    @Test("64-bit from user mode: RSP0, null SS, trap gates keep IF")
    func longInner() throws {
        let machine = try BareMachine()
        try machine.enterLong(cpl: 3)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setGate64(14, 0x7000, type: 15)
        machine.put(BareMachine.tss + 4, Self.top - 8)
        cpu.setFlags(0x202 | RFLAGS.nt)
        cpu.fields.cr2 = 0x1234
        cpu.deliver(.pageFault(4))
        #expect(cpu.rip == 0x7000)
        #expect(cpu.cpl == 0)
        #expect(cpu.segment(SegmentRegister.ss).selector == 0)
        #expect(cpu[4] == Self.top - 16 - 48)
        #expect(
            machine.frame64(Self.top - 16 - 48, count: 6) == [
                4, 0x5000, UInt64(Selector.userCode64), 0x1_4202, Self.top - 0x800,
                UInt64(Selector.userData),
            ])
        #expect(cpu.rflags == 0x202)
        #expect(cpu.fields.tlbMode == UInt8(TLBMode.supervisor))
    }

    @Test("64-bit: an interrupt stack table entry is used at the same level as well")
    func longStackTable() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setGate64(2, 0x7000, stackTable: 3)
        machine.put(BareMachine.tss + 36 + 16, UInt64(0xA008))
        cpu.deliverInterrupt(2)
        #expect(cpu[4] == 0xA000 - 40)
        #expect(machine.frame64(0xA000 - 40, count: 1) == [0x5000])
    }

    @Test(
        "64-bit: what is wrong with a gate",
        arguments: [
            (0x8E00_0008_7000 as UInt64, 3, nil as Fault?),
            (0x8C00_0008_7000, 3, .generalProtection(0x83)),  // a call gate
            (0x0E00_0008_7000, 3, .segmentNotPresent(0x83)),
            (0x8E00_0000_7000, 3, .generalProtection(1)),  // null selector
            (0x8E00_0010_7000, 3, .generalProtection(0x11)),  // data
            (0x8E00_0018_7000, 3, .generalProtection(0x19)),  // 32-bit code
            (0x8E00_1008_7000, 3, .generalProtection(0x1009)),  // outside the GDT
        ] as [(UInt64, UInt8, Fault?)])
    func longGates(gate: UInt64, cpl: UInt8, expected: Fault?) throws {
        let machine = try BareMachine()
        try machine.enterLong(cpl: cpl)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.put(BareMachine.idt + 16 * 16, gate)
        // All that can follow leads to a handler of its own, by vector.
        for vector in [UInt8(8), 11, 13] { machine.setGate64(vector, 0x6000 + UInt64(vector)) }
        cpu.deliver(.floatingPoint)
        guard let expected else {
            #expect(cpu.rip == 0x7000)
            return
        }
        #expect(cpu.rip == 0x6000 + UInt64(expected.vector))
        #expect(machine.frame64(cpu[4], count: 2) == [UInt64(expected.errorCode), 0x5000])
    }

    @Test("64-bit: a software interrupt needs the gate's DPL, and its faults have no EXT")
    func softwareInterrupt() throws {
        let machine = try BareMachine()
        try machine.enterLong(cpl: 3)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setGate64(0x80, 0x7000)
        func run(_ kind: SoftwareInterruptKind) -> Fault? {
            fault { () throws(Fault) in
                try cpu.softwareInterrupt(vector: 0x80, nextRIP: 0x5002, kind: kind)
            }
        }
        #expect(run(.int) == .generalProtection(0x402))
        #expect(cpu.rip == 0x5000 && cpu.cpl == 3)
        machine.setGate64(0x80, 0x7000, dpl: 3)
        #expect(run(.int) == nil)
        #expect(cpu.rip == 0x7000)
        #expect(machine.frame64(cpu[4], count: 2) == [0x5002, UInt64(Selector.userCode64)])
    }

    // MARK: Double and triple faults (SDM volume 3, table 6-5)

    @Test(
        "what a fault in a fault's delivery leads to",
        arguments: [
            (Fault.generalProtection(0), 8),  // contributory, then #NP of the gate: contributory
            (.divideError, 8), (.pageFault(0), 8), (.invalidOpcode, 11), (.breakpoint, 11),
            (.simdFloatingPoint, 11),
        ] as [(Fault, UInt8)])
    func doubleFault(first: Fault, second: UInt8) throws {
        let machine = try BareMachine()
        try machine.enterLong()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        // All gates but these two are there and not present.
        for vector in UInt8(0)..<32 {
            machine.put(BareMachine.idt + UInt64(vector) * 16, UInt64(0x0E00_0008_7000))
        }
        machine.setGate64(8, 0x6008)
        machine.setGate64(11, 0x600B)
        cpu.deliver(first)
        #expect(cpu.rip == 0x6000 + UInt64(second))
        let code: UInt64 = second == 8 ? 0 : UInt64(first.vector) << 3 | 3
        #expect(machine.frame64(cpu[4], count: 2) == [code, 0x5000])
    }

    @Test("a page fault while a contributory fault is delivered is served")
    func pageFaultDuringContributory() throws {
        let machine = try BareMachine()
        try machine.enterLong(cpl: 3)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setGate64(13, 0x600D)
        machine.setGate64(14, 0x600E, stackTable: 1)
        machine.put(BareMachine.tss + 36, UInt64(0xA000))
        machine.put(BareMachine.tss + 4, UInt64(0x80_0000_0000))  // an unmapped stack
        cpu.deliver(.generalProtection(0))
        #expect(cpu.rip == 0x600E)
        #expect(cpu.fields.cr2 == 0x7F_FFFF_FFF8)
        #expect(machine.frame64(cpu[4], count: 2) == [2, 0x5000])
    }

    @Test("a fault in a double fault's delivery shuts the CPU down")
    func tripleFault() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        machine.cpu.fields.idtr.limit = 0
        machine.cpu.deliver(.invalidOpcode)
        #expect(machine.cpu.fields.isShutDown)
        guard case .tripleFault = machine.vcpu.run() else {
            Issue.record("no triple fault")
            return
        }
    }

    // MARK: Protected mode

    @Test("32-bit gates: same level, and inner with the TSS's stack")
    func protected32() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        machine.setGate32(13, 0x7_6543)
        machine.cpu.setFlags(0x202)
        machine.cpu.deliver(.generalProtection(0x10))
        #expect(machine.cpu.rip == 0x7_6543)
        #expect(machine.cpu[4] == Self.top - 0x800 - 16)
        #expect(
            machine.frame32(Self.top - 0x810, count: 4) == [
                0x10, 0x5000, UInt32(Selector.code32), 0x1_0202,
            ])

        let user = try BareMachine()
        try user.enterProtected(cpl: 3)
        user.setGate32(14, 0x7000)
        user.cpu.deliver(.pageFault(6))
        #expect(user.cpu.cpl == 0)
        #expect(user.cpu.segment(SegmentRegister.ss).selector == Selector.data)
        #expect(
            user.frame32(Self.top - 24, count: 6) == [
                6, 0x5000, UInt32(Selector.userCode32), 0x1_0002, UInt32(Self.top - 0x800),
                UInt32(Selector.userData),
            ])
    }

    @Test("16-bit gates push words")
    func protected16() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        machine.setGate32(6, 0x1_7000, type: 6)
        machine.cpu.deliver(.invalidOpcode)
        #expect(machine.cpu.rip == 0x7000)
        #expect(machine.cpu[4] == Self.top - 0x806)
        #expect(machine.get(Self.top - 0x806, as: UInt16.self) == 0x5000)
        #expect(machine.get(Self.top - 0x804, as: UInt16.self) == Selector.code32)
    }

    @Test("from virtual-8086 mode: segments are pushed and cleared, IRETD brings them back")
    func virtual8086() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setGate32(13, 0x7000)
        // Enter by IRETD: EIP CS EFLAGS ESP SS ES DS FS GS.
        let frame: [UInt32] = [0x1234, 0x2000, 0x2_3002, 0x800, 0x3000, 0x10, 0x20, 0x30, 0x40]
        for (index, value) in frame.enumerated() { machine.put(0x8000 + 4 * UInt64(index), value) }
        cpu[4] = 0x8000
        try cpu.interruptReturn(operandSize: 4, nextRIP: 0x5001)
        #expect(cpu.isVM86 && cpu.cpl == 3 && cpu.rip == 0x1234)
        #expect(cpu.addressBase(SegmentRegister.cs) == 0x2_0000)
        #expect(cpu.addressBase(SegmentRegister.gs) == 0x400)
        #expect(cpu.segment(SegmentRegister.ss).limit == 0xFFFF)
        cpu.deliver(.generalProtection(0))
        #expect(!cpu.isVM86 && cpu.cpl == 0 && cpu.rip == 0x7000)
        #expect(cpu[4] == Self.top - 40)
        #expect(
            machine.frame32(Self.top - 40, count: 10) == [
                0, 0x1234, 0x2000, 0x3_3002, 0x800, 0x3000, 0x10, 0x20, 0x30, 0x40,
            ])
        #expect(!cpu.segment(SegmentRegister.ds).isUsable)
        cpu[4] = Self.top - 36
        try cpu.interruptReturn(operandSize: 4, nextRIP: 0x7001)
        #expect(cpu.isVM86 && cpu.rip == 0x1234 && cpu[4] == 0x800)
        #expect(cpu.segment(SegmentRegister.fs).selector == 0x30)
    }

    @Test("virtual-8086: INT n needs IOPL 3")
    func virtual8086Privilege() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setGate32(0x21, 0x7000, dpl: 3)
        for (index, value) in ([0x1234, 0x2000, 0x2_0002, 0x800, 0x3000, 0, 0, 0, 0] as [UInt32])
            .enumerated()
        {
            machine.put(0x8000 + 4 * UInt64(index), value)
        }
        cpu[4] = 0x8000
        try cpu.interruptReturn(operandSize: 4, nextRIP: 0x5001)
        #expect(
            fault { () throws(Fault) in
                try cpu.softwareInterrupt(vector: 0x21, nextRIP: 0x1236, kind: .int)
            } == .generalProtection(0))
        #expect(fault { () throws(Fault) in try cpu.cli() } == .generalProtection(0))
        #expect(
            fault { () throws(Fault) in _ = try cpu.flagsToPush(operandSize: 2) }
                == .generalProtection(0))
    }

    // MARK: Real mode

    @Test("real mode uses the vector table, and no error codes")
    func real() throws {
        let machine = try BareMachine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.put(0x10 * 4, UInt32(0x0700_0123))
        cpu.setSegment(
            SegmentRegister.cs,
            Segment(selector: 0x500, attributes: 0x9B, limit: 0xFFFF, base: 0x5000))
        cpu.rip = 0x44
        cpu[4] = 0x1_0800
        cpu.setFlags(0x302)
        cpu.updateMode()
        cpu.deliver(.floatingPoint)
        #expect(cpu.segment(SegmentRegister.cs).base == 0x7000)
        #expect(cpu.rip == 0x123)
        #expect(cpu[4] == 0x1_07FA)
        #expect(machine.get(0x7FA, as: UInt16.self) == 0x44)
        #expect(machine.get(0x7FC, as: UInt16.self) == 0x500)
        #expect(machine.get(0x7FE, as: UInt16.self) == 0x302)
        #expect(cpu.rflags & 0x300 == 0)
        try cpu.interruptReturn(operandSize: 2, nextRIP: 0)
        #expect(cpu.rip == 0x44 && cpu[4] == 0x1_0800 && cpu.rflags == 0x302)
    }

    // MARK: Task gates

    @Test("an exception through a task gate switches tasks, and IRET goes back")
    func taskGate() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        let newTask: UInt64 = 0x4000
        machine.setDescriptor(Selector.free, 0x0000_8900_0000_0067 | newTask << 16)
        machine.put(BareMachine.idt + 8 * 8, UInt64(Selector.free) << 16 | 0x8500 << 32)
        machine.put(newTask + 32, UInt32(0x6000))
        machine.put(newTask + 36, UInt32(2))
        machine.put(newTask + 56, UInt32(0x7800))
        machine.put(newTask + 72, UInt32(Selector.data))
        machine.put(newTask + 76, UInt32(Selector.code32))
        machine.put(newTask + 80, UInt32(Selector.data))
        machine.put(newTask + 84, UInt32(Selector.data))
        cpu[0] = 0x1111
        cpu.deliver(.doubleFault)
        #expect(cpu.rip == 0x6000 && cpu[0] == 0)
        #expect(cpu[4] == 0x77FC)  // with the error code
        #expect(cpu.rflags & RFLAGS.nt != 0)
        #expect(cpu.fields.cr0 & CR0.ts != 0)
        #expect(machine.get(newTask, as: UInt16.self) == Selector.task)
        #expect(machine.get(BareMachine.tss + 32, as: UInt32.self) == 0x5000)
        #expect(machine.get(BareMachine.tss + 40, as: UInt32.self) == 0x1111)
        #expect(machine.get(BareMachine.gdt + 0x4D, as: UInt8.self) == 0x8B)
        cpu[4] = 0x7800
        try cpu.interruptReturn(operandSize: 4, nextRIP: 0x6001)
        #expect(cpu.rip == 0x5000 && cpu[0] == 0x1111)
        #expect(cpu.segment(SegmentRegister.tr).selector == Selector.task)
        #expect(machine.get(BareMachine.gdt + 0x4D, as: UInt8.self) == 0x89)
        #expect(machine.get(newTask + 32, as: UInt32.self) == 0x6001)
    }
}
