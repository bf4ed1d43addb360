import Testing

@testable import TCG

private typealias Selector = BareMachine.Selector

/// A descriptor, a selector's RPL and a CPL, and what loading them into a data segment register
/// and into SS must give.
struct SegmentCase: Sendable, CustomTestStringConvertible {
    /// Bits 0-3 type, bit 4 S, bits 5-6 DPL, bit 7 P.
    var access: UInt64
    var rpl: UInt16
    var cpl: UInt8

    var testDescription: String { "access \(access) rpl \(rpl) cpl \(cpl)" }

    static let all: [SegmentCase] = {
        var cases: [SegmentCase] = []
        for access in UInt64(0)..<256 {
            for rpl in UInt16(0)..<4 {
                for cpl in [UInt8(0), 3] {
                    cases.append(SegmentCase(access: access, rpl: rpl, cpl: cpl))
                }
            }
        }
        return cases
    }()

    var dpl: Int { Int(access >> 5) & 3 }
    var isSegment: Bool { access & 0x10 != 0 }
    var isPresent: Bool { access & 0x80 != 0 }

    /// SDM volume 3, section 5.6; volume 2, MOV.
    var expectedData: Fault? {
        let code = Selector.free
        let type = access & 15
        guard isSegment, type & 8 == 0 || type & 2 != 0 else { return .generalProtection(code) }
        let isConforming = type & 0xC == 0xC
        if !isConforming && (Int(rpl) > dpl || Int(cpl) > dpl) { return .generalProtection(code) }
        return isPresent ? nil : .segmentNotPresent(code)
    }

    /// Section 5.7.
    var expectedStack: Fault? {
        let code = Selector.free
        guard isSegment, access & 0xA == 2, Int(rpl) == Int(cpl), dpl == Int(cpl) else {
            return .generalProtection(code)
        }
        return isPresent ? nil : .stackFault(code)
    }

    /// A far jump (section 5.8.1).
    var expectedJump: Fault? {
        let code = Selector.free
        guard isSegment, access & 8 != 0 else { return .generalProtection(code) }
        if access & 4 != 0 {
            if dpl > Int(cpl) { return .generalProtection(code) }
        } else if Int(rpl) > Int(cpl) || dpl != Int(cpl) {
            return .generalProtection(code)
        }
        return isPresent ? nil : .segmentNotPresent(code)
    }
}

@Suite("Segments")
struct SegmentTests {
    func machine(_ test: SegmentCase) throws -> BareMachine {
        let machine = try BareMachine()
        try machine.enterProtected(cpl: test.cpl)
        machine.setDescriptor(Selector.free, 0x00CF_0000_1234_FFFF | test.access << 40)
        return machine
    }

    func accessed(_ machine: BareMachine) -> Bool {
        machine.get(BareMachine.gdt + UInt64(Selector.free) + 5, as: UInt8.self) & 1 != 0
    }

    @Test("every kind of descriptor into DS, SS and CS")
    func loads() throws {
        for test in SegmentCase.all {
            let selector = Selector.free | test.rpl
            let isSystem = !test.isSegment
            var machine = try machine(test)
            #expect(
                fault { () throws(Fault) in
                    try machine.cpu.loadSegment(SegmentRegister.ds, selector: selector)
                } == test.expectedData, "DS, \(test.testDescription)")
            if test.expectedData == nil {
                #expect(accessed(machine))
                #expect(machine.cpu.addressBase(SegmentRegister.ds) == 0x1234)
            }

            machine = try self.machine(test)
            #expect(
                fault { () throws(Fault) in
                    try machine.cpu.loadSegment(SegmentRegister.ss, selector: selector)
                } == test.expectedStack, "SS, \(test.testDescription)")

            // Gates and tasks have tests of their own.
            if isSystem { continue }
            machine = try self.machine(test)
            #expect(
                fault { () throws(Fault) in
                    try machine.cpu.farJump(
                        selector: selector, offset: 0x77, operandSize: 4, nextRIP: 0x5007)
                } == test.expectedJump, "CS, \(test.testDescription)")
            if test.expectedJump == nil {
                #expect(machine.cpu.rip == 0x77)
                #expect(
                    machine.cpu.segment(SegmentRegister.cs).selector
                        == Selector.free | UInt16(test.cpl))
            }
        }
    }

    @Test("null selectors: data segments become unusable, SS and CS fault")
    func null() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        try cpu.loadSegment(SegmentRegister.es, selector: 3)
        #expect(!cpu.segment(SegmentRegister.es).isUsable)
        #expect(cpu.segment(SegmentRegister.es).selector == 3)
        #expect(
            fault { () throws(Fault) in
                _ = try cpu.checkedAddress(segment: 0, offset: 0, size: 1, isWrite: false)
            } == .generalProtection(0))
        #expect(
            fault { () throws(Fault) in try cpu.loadSegment(SegmentRegister.ss, selector: 0) }
                == .generalProtection(0))
        #expect(
            fault { () throws(Fault) in
                try cpu.farJump(selector: 2, offset: 0, operandSize: 4, nextRIP: 0)
            } == .generalProtection(0))
    }

    @Test("64-bit mode takes a null SS below level 3 only, with RPL = CPL")
    func nullStackSegment() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        try machine.cpu.loadSegment(SegmentRegister.ss, selector: 0)
        #expect(
            fault { () throws(Fault) in
                try machine.cpu.loadSegment(SegmentRegister.ss, selector: 1)
            } == .generalProtection(0))
        let user = try BareMachine()
        try user.enterLong(cpl: 3)
        #expect(
            fault { () throws(Fault) in try user.cpu.loadSegment(SegmentRegister.ss, selector: 3) }
                == .generalProtection(0))
    }

    @Test("selectors outside the GDT, and with no LDT")
    func outside() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        for selector in [UInt16(0x200), 0xFFF8, 0x0C] {
            #expect(
                fault { () throws(Fault) in
                    try machine.cpu.loadSegment(SegmentRegister.ds, selector: selector)
                } == .generalProtection(selector & ~3))
        }
    }

    @Test("an LDT is loaded, used, and checked against its limit")
    func localTable() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setDescriptor(Selector.free, 0x0000_8200_4000_000F)
        machine.put(0x4008, 0x00CF_9300_5678_FFFF as UInt64)
        try cpu.loadLDT(selector: Selector.free)
        try cpu.loadSegment(SegmentRegister.fs, selector: 0x0C)
        #expect(cpu.addressBase(SegmentRegister.fs) == 0x5678)
        #expect(
            fault { () throws(Fault) in try cpu.loadSegment(SegmentRegister.fs, selector: 0x14) }
                == .generalProtection(0x14))
        #expect(
            fault { () throws(Fault) in try cpu.loadLDT(selector: Selector.data) }
                == .generalProtection(Selector.data))
        #expect(
            fault { () throws(Fault) in try cpu.loadTaskRegister(selector: Selector.task) }
                == .generalProtection(Selector.task))  // busy
    }

    @Test(
        "limits: up, down, 16-bit tops",
        arguments: [
            (0x9300, 0x0FFF, 0x0FFC, 4, true), (0x9300, 0x0FFF, 0x0FFD, 4, false),
            (0x9700, 0x0FFF, 0x0FFF, 1, false), (0x9700, 0x0FFF, 0x1000, 4, true),
            (0x9700, 0x0FFF, 0xFFFC, 4, true), (0x9700, 0x0FFF, 0xFFFD, 4, false),
            (0x40_9700, 0x0FFF, 0xFFFD, 4, true), (0x40_9700, 0x0FFF, 0xFFFF_FFFD, 4, false),
            (0x80_9300, 0x0000, 0x0FFC, 4, true), (0x80_9300, 0x0000, 0x1000, 1, false),
        ] as [(UInt64, UInt64, UInt64, Int, Bool)])
    func limits(attributes: UInt64, limit: UInt64, offset: UInt64, size: Int, works: Bool) throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        machine.setDescriptor(Selector.free, attributes << 32 | limit)
        try machine.cpu.loadSegment(SegmentRegister.es, selector: Selector.free)
        try machine.cpu.loadSegment(SegmentRegister.ss, selector: Selector.free)
        for (register, expected) in [(0, Fault.generalProtection(0)), (2, .stackFault(0))] {
            #expect(
                fault { () throws(Fault) in
                    _ = try machine.cpu.checkedAddress(
                        segment: UInt8(register), offset: offset, size: size, isWrite: true)
                } == (works ? nil : expected))
        }
    }

    @Test("code cannot be written, read-only data neither, execute-only code not read")
    func types() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        func check(_ register: UInt8, isWrite: Bool) -> Fault? {
            fault { () throws(Fault) in
                _ = try cpu.checkedAddress(
                    segment: register, offset: 0, size: 4, isWrite: isWrite)
            }
        }
        #expect(check(SegmentRegister.cs, isWrite: true) == .generalProtection(0))
        #expect(check(SegmentRegister.cs, isWrite: false) == nil)
        machine.setDescriptor(Selector.free, 0x00CF_9100_0000_FFFF)
        try cpu.loadSegment(SegmentRegister.es, selector: Selector.free)
        #expect(check(SegmentRegister.es, isWrite: true) == .generalProtection(0))
        #expect(check(SegmentRegister.es, isWrite: false) == nil)
        machine.setDescriptor(Selector.free, 0x00CF_9900_0000_FFFF)
        try cpu.farJump(selector: Selector.free, offset: 0x10, operandSize: 4, nextRIP: 0)
        #expect(check(SegmentRegister.cs, isWrite: false) == .generalProtection(0))
    }

    @Test("LAR, LSL, VERR and VERW see what privilege lets them")
    func visibility() throws {
        let machine = try BareMachine()
        try machine.enterProtected(cpl: 3)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        #expect(try cpu.lar(Selector.userData) == 0x00CF_F300)
        #expect(try cpu.lsl(Selector.userData) == 0xFFFF_FFFF)
        #expect(try cpu.lar(Selector.data) == nil)
        #expect(try cpu.lar(0) == nil)
        #expect(try cpu.verr(Selector.userCode32) && !cpu.verw(Selector.userCode32))
        #expect(try cpu.verw(Selector.userData))
        machine.setDescriptor(Selector.free, 0x0000_EC00_0000_0000)  // a call gate, DPL 3
        #expect(try cpu.lar(Selector.free | 3) == 0xEC00)
        #expect(try cpu.lsl(Selector.free | 3) == nil)
    }

    // MARK: Far transfers

    @Test("a far call pushes CS and EIP, and RETF n takes them and n bytes off")
    func farCall() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        let top = cpu[4]
        try cpu.farCall(
            selector: Selector.code32, offset: 0x6000, operandSize: 4, nextRIP: 0x5007)
        #expect(cpu.rip == 0x6000 && cpu[4] == top - 8)
        #expect(machine.frame32(top - 8, count: 2) == [0x5007, UInt32(Selector.code32)])
        try cpu.farReturn(operandSize: 4, popBytes: 12)
        #expect(cpu.rip == 0x5007 && cpu[4] == top + 12)
    }

    @Test("far calls, jumps and returns with REX.W: 32-bit offsets, values of 8 bytes")
    func farWide() throws {
        // call far m16:32 by [rel 6000] with REX.W; hlt. There: retf with REX.W.
        let machine = try BareMachine.running([
            0x48, 0xFF, 0x1C, 0x25, 0x00, 0x60, 0x00, 0x00, 0xF4,
        ])
        let cpu = machine.cpu
        machine.put(0x6000, UInt32(0x6100))
        machine.put(0x6004, Selector.code64)
        machine.put(0x6100, bytes: [0x48, 0xCB])
        let top = cpu[4]
        machine.runUntilHalt()
        #expect(cpu.rip == 0x5009 && cpu[4] == top)
        #expect(machine.frame64(top - 16, count: 2) == [0x5008, UInt64(Selector.code64)])
        // jmp far m16:32 by [rel 6000] with REX.W
        let jump = try BareMachine.running([0x48, 0xFF, 0x2C, 0x25, 0x00, 0x60, 0x00, 0x00])
        jump.put(0x6000, UInt32(0x6100))
        jump.put(0x6004, Selector.code64)
        jump.put(0x6100, bytes: [0xF4])
        jump.runUntilHalt()
        #expect(jump.cpu.rip == 0x6101 && jump.cpu[4] == BareMachine.stack - 0x800)
    }

    @Test("IRETQ to level 3 makes GS null but keeps its base")
    func keptBase() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        try cpu.setMSR(0xC000_0101, 0x1234_5000)
        cpu[4] = 0x8000
        let frame: [UInt64] = [
            0x6000, UInt64(Selector.userCode64), 0x202, 0x8800, UInt64(Selector.userData),
        ]
        for (index, value) in frame.enumerated() { machine.put(0x8000 + 8 * UInt64(index), value) }
        try cpu.interruptReturn(operandSize: 8, nextRIP: 0x5002)
        #expect(cpu.segment(SegmentRegister.gs).selector == 0)
        #expect(!cpu.segment(SegmentRegister.gs).isUsable)
        #expect(cpu.addressBase(SegmentRegister.gs) == 0x1234_5000)
    }

    @Test("a call gate to level 0 switches stacks, copies parameters, and RETF comes back")
    func callGate() throws {
        let machine = try BareMachine()
        try machine.enterProtected(cpl: 3)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        // DPL 3, two parameters, to 18:00056000.
        machine.setDescriptor(Selector.free, 0x0005_EC02_0018_6000)
        let top = cpu[4]
        machine.put(top, 0x1111_1111 as UInt32)
        machine.put(top + 4, 0x2222_2222 as UInt32)
        try cpu.farCall(
            selector: Selector.free | 3, offset: 0x9999, operandSize: 4, nextRIP: 0x5007)
        #expect(cpu.cpl == 0 && cpu.rip == 0x5_6000)
        #expect(cpu[4] == BareMachine.stack - 24)
        #expect(
            machine.frame32(BareMachine.stack - 24, count: 6) == [
                0x5007, UInt32(Selector.userCode32), 0x1111_1111, 0x2222_2222, UInt32(top),
                UInt32(Selector.userData),
            ])
        try cpu.loadSegment(SegmentRegister.ds, selector: Selector.data)
        try cpu.farReturn(operandSize: 4, popBytes: 8)
        #expect(cpu.cpl == 3 && cpu.rip == 0x5007 && cpu[4] == top + 8)
        #expect(cpu.segment(SegmentRegister.ss).selector == Selector.userData)
        // Level 3 may not keep a segment of level 0.
        #expect(!cpu.segment(SegmentRegister.ds).isUsable)
        #expect(cpu.segment(SegmentRegister.es).selector == Selector.userData)
    }

    @Test("a 64-bit call gate: 8-byte values, null SS, no parameters")
    func callGate64() throws {
        let machine = try BareMachine()
        try machine.enterLong(cpl: 3)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setDescriptor(Selector.free, 0x1234_EC00_0008_6000)
        machine.put(BareMachine.gdt + UInt64(Selector.free) + 8, 0xFFFF_8000 as UInt64)
        let top = cpu[4]
        try cpu.farCall(
            selector: Selector.free | 3, offset: 0, operandSize: 4, nextRIP: 0x5007)
        #expect(cpu.cpl == 0 && cpu.rip == 0xFFFF_8000_1234_6000)
        #expect(cpu.segment(SegmentRegister.ss).selector == 0)
        #expect(
            machine.frame64(BareMachine.stack - 32, count: 4) == [
                0x5007, UInt64(Selector.userCode64), top, UInt64(Selector.userData),
            ])
        try cpu.farReturn(operandSize: 8, popBytes: 0)
        #expect(cpu.cpl == 3 && cpu.rip == 0x5007 && cpu[4] == top)
    }

    @Test(
        "faults of gates and of the stack that the TSS names",
        arguments: [
            (0x0005_8C00_0018_6000 as UInt64, nil as UInt64?, Fault.generalProtection(0x48)),
            (0x0005_6C00_0018_6000, nil, .segmentNotPresent(0x48)),
            (0x0005_EC00_0000_6000, nil, .generalProtection(0)),
            (0x0005_EC00_0010_6000, nil, .generalProtection(0x10)),
            (0x0005_EC00_0018_6000, 0, .invalidTSS(0)),
            (0x0005_EC00_0018_6000, 0x20, .invalidTSS(0x20)),
            (0x0005_EC00_0018_6000, 0x7F0, .invalidTSS(0x7F0)),
        ])
    func gateFaults(gate: UInt64, stackSelector: UInt64?, expected: Fault) throws {
        let machine = try BareMachine()
        try machine.enterProtected(cpl: 3)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.setDescriptor(Selector.free, gate)
        if let stackSelector {
            machine.put(BareMachine.tss + 8, UInt32(truncatingIfNeeded: stackSelector))
        }
        #expect(
            fault { () throws(Fault) in
                try cpu.farCall(
                    selector: Selector.free | 3, offset: 0, operandSize: 4, nextRIP: 0x5007)
            } == expected)
        #expect(cpu.rip == 0x5000 && cpu.cpl == 3 && cpu[4] == BareMachine.stack - 0x800)
    }

    @Test("a jump between 64-bit and compatibility mode")
    func compatibility() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        try cpu.farJump(
            selector: Selector.code32, offset: 0x1_0000_6000, operandSize: 8, nextRIP: 0)
        #expect(cpu.fields.codeSize == 4 && cpu.rip == 0x6000)
        try cpu.farJump(selector: Selector.code64, offset: 0x7000, operandSize: 4, nextRIP: 0)
        #expect(cpu.fields.codeSize == 8 && cpu.rip == 0x7000)
        // L and D together are reserved.
        machine.setDescriptor(Selector.free, 0x00EF_9B00_0000_FFFF)
        #expect(
            fault { () throws(Fault) in
                try cpu.farJump(selector: Selector.free, offset: 0, operandSize: 4, nextRIP: 0)
            } == .generalProtection(Selector.free))
    }

    // MARK: IRET

    @Test("IRETQ to level 3, and what it refuses")
    func interruptReturn64() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        func put(_ values: [UInt64]) {
            cpu[4] = 0x8000
            for (index, value) in values.enumerated() {
                machine.put(0x8000 + 8 * UInt64(index), value)
            }
        }
        func run() -> Fault? {
            fault { () throws(Fault) in
                try cpu.interruptReturn(operandSize: 8, nextRIP: 0x5002)
            }
        }
        let code = UInt64(Selector.userCode64)
        let data = UInt64(Selector.userData)
        put([0x6000, code, 0x202, 0x8800, 0])
        #expect(run() == .generalProtection(0))  // null SS at level 3
        put([0x6000, 0, 0x202, 0x8800, data])
        #expect(run() == .generalProtection(0))
        put([0x8000_0000_0000, code, 0x202, 0x8800, data])
        #expect(run() == .generalProtection(0))
        put([0x6000, code & ~3, 0x202, 0x8800, data])
        #expect(run() == .generalProtection(0x28))
        put([0x6000, code, 0x202, 0x8800, UInt64(Selector.data) | 3])
        #expect(run() == .generalProtection(Selector.data))
        cpu.fields.systemFlags |= RFLAGS.nt
        put([0x6000, code, 0x202, 0x8800, data])
        #expect(run() == .generalProtection(0))
        cpu.fields.systemFlags &= ~RFLAGS.nt
        #expect(cpu.rip == 0x5000 && cpu.cpl == 0)
        put([0x6000, code, 0x24_3ED7, 0x8801, data])
        #expect(run() == nil)
        #expect(cpu.rip == 0x6000 && cpu.cpl == 3 && cpu[4] == 0x8801)
        #expect(cpu.rflags == 0x24_3ED7)
        #expect(cpu.fields.tlbMode == UInt8(TLBMode.user))
    }

    @Test("IRET at level 3 changes neither IOPL nor IF")
    func interruptReturnUser() throws {
        let machine = try BareMachine()
        try machine.enterProtected(cpl: 3)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        cpu[4] = 0x8000
        machine.put(0x8000, 0x6000 as UInt32)
        machine.put(0x8004, UInt32(Selector.userCode32))
        machine.put(0x8008, 0x3_32D7 as UInt32)
        try cpu.interruptReturn(operandSize: 4, nextRIP: 0x5001)
        #expect(cpu.rip == 0x6000 && cpu[4] == 0x800C)
        #expect(cpu.rflags == 0xD7)
    }

    // MARK: System calls

    @Test("SYSCALL and SYSRET")
    func systemCall() throws {
        let machine = try BareMachine()
        try machine.enterLong(cpl: 3)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        cpu.fields.star = 0x0023_0008 << 32
        cpu.fields.lstar = 0xFFFF_FFFF_8000_1000
        cpu.fields.sfmask = 0x4_7700
        cpu.setFlags(0x246)
        try cpu.systemCall(nextRIP: 0x5002)
        #expect(cpu.rip == 0xFFFF_FFFF_8000_1000 && cpu.cpl == 0)
        #expect(cpu[1] == 0x5002 && cpu[11] == 0x246 && cpu.rflags == 0x46)
        #expect(cpu.segment(SegmentRegister.cs).selector == 8)
        #expect(cpu.segment(SegmentRegister.ss).selector == 0x10)
        cpu[11] = 0x3_0293
        try cpu.systemReturn(operandSize: 8)
        #expect(cpu.rip == 0x5002 && cpu.cpl == 3 && cpu.rflags == 0x293)
        #expect(cpu.segment(SegmentRegister.cs).selector == 0x33)
        #expect(cpu.segment(SegmentRegister.ss).selector == 0x2B)
        #expect(cpu.is64Bit)
        cpu.fields.efer &= ~EFER.sce
        #expect(
            fault { () throws(Fault) in try cpu.systemCall(nextRIP: 0) } == .invalidOpcode)
    }

    @Test("SYSRET to compatibility mode, SYSENTER, SYSEXIT")
    func otherCalls() throws {
        let machine = try BareMachine()
        try machine.enterLong()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        cpu.fields.star = 0x0023_0008 << 32
        cpu[1] = 0x1_0000_6000
        cpu[11] = 2
        try cpu.systemReturn(operandSize: 4)
        #expect(cpu.rip == 0x6000 && cpu.fields.codeSize == 4)
        #expect(cpu.segment(SegmentRegister.cs).selector == 0x23)
        #expect(
            fault { () throws(Fault) in try cpu.sysenter(nextRIP: 0) } == .generalProtection(0))
        cpu.fields.sysenterCS = 8
        cpu.fields.sysenterEIP = 0x7000
        cpu.fields.sysenterESP = 0x8800
        try cpu.sysenter(nextRIP: 0)
        #expect(cpu.rip == 0x7000 && cpu[4] == 0x8800 && cpu.cpl == 0 && cpu.is64Bit)
        cpu[1] = 0x8700
        cpu[2] = 0x6100
        try cpu.sysexit(operandSize: 8)
        #expect(cpu.rip == 0x6100 && cpu[4] == 0x8700 && cpu.cpl == 3 && cpu.is64Bit)
        #expect(cpu.segment(SegmentRegister.cs).selector == 0x2B)
    }
}
