import Testing

@testable import TCG

/// The conditions of XSAVE's family (SDM volume 1, chapter 13; volume 2). What it moves is compared
/// with the host CPU (Differential/ExtendedStateDifferentialTests.swift).
@Suite("XSAVE and XCR0")
struct ExtendedStateTests {
    private enum Code {
        static let xgetbv: [UInt8] = [0x0F, 0x01, 0xD0]
        static let xsetbv: [UInt8] = [0x0F, 0x01, 0xD1]
        static let xsave: [UInt8] = [0x0F, 0xAE, 0x27]
        static let xsaveopt: [UInt8] = [0x0F, 0xAE, 0x37]
        static let xsavec: [UInt8] = [0x0F, 0xC7, 0x27]
        static let xrstor: [UInt8] = [0x0F, 0xAE, 0x2F]
        static let memory = [xsave, xsaveopt, xsavec, xrstor]
        static let all = memory + [xgetbv, xsetbv]
    }

    /// Runs one instruction with [RDI] = 200000 and EDX:EAX = `pair`.
    private func run(
        _ code: [UInt8], cpl: UInt8 = 0, pair: UInt64 = 3,
        prepare: (BareMachine) -> Void = { _ in }
    ) throws -> BareMachine {
        let machine = try BareMachine.running(code + [0xF4], cpl: cpl)
        machine.cpu.fields.cr4 |= CR4.osxsave
        machine.cpu[0] = pair & 0xFFFF_FFFF
        machine.cpu[2] = pair >> 32
        machine.cpu[7] = 0x20_0000
        prepare(machine)
        machine.runUntilHalt()
        return machine
    }

    @Test("a guest of x86-64-v2 has none of it", arguments: Code.all)
    func absent(_ code: [UInt8]) throws {
        let machine = try run(code) { $0.cpu.fields.cr4 &= ~CR4.osxsave }
        #expect(machine.exception?.vector == 6)
        #expect(CPUIDTable(id: 0, cpuCount: 1).leaf(1, 0).ecx >> 26 & 3 == 0)
        #expect(CPUIDTable(id: 0, cpuCount: 1).leaf(0xD, 0) == CPUIDLeaf())
        #expect(machine.vcpu.cpu.fields.xcr0 == 1)
    }

    @Test("CR0.TS gives #NM, and CR0.EM nothing", arguments: Code.memory)
    func taskSwitched(_ code: [UInt8]) throws {
        let machine = try run(code) { $0.cpu.fields.cr0 |= CR0.ts }
        #expect(machine.exception?.vector == 7)
        #expect(try run(code) { $0.cpu.fields.cr0 |= CR0.em }.exception == nil)
    }

    @Test("images are aligned to 64 bytes", arguments: Code.memory)
    func alignment(_ code: [UInt8]) throws {
        #expect(try run(code) { $0.cpu[7] += 32 }.exception?.vector == 13)
    }

    @Test(
        "an image that runs into a missing page faults and changes nothing", arguments: Code.memory)
    func missingPage(_ code: [UInt8]) throws {
        let machine = try run(code) {
            $0.cpu[7] = BareMachine.memorySize - 512
            // The next 2 MiB are not mapped; the header would be there.
            $0.put(BareMachine.memorySize - 512, 0x1234 as UInt64)
        }
        #expect(machine.exception?.vector == 14)
        #expect(machine.cpu.fields.cr2 == BareMachine.memorySize)
        #expect(machine.get(BareMachine.memorySize - 512, as: UInt64.self) == 0x1234)
    }

    @Test(
        "XSETBV takes what XCR0 can hold",
        arguments: [
            (1, nil), (3, nil), (7, nil), (0xE7, nil), (0, 13), (2, 13), (5, 13), (0x27, 13),
            (0xE3, 13), (9, 13), (1 << 63 | 1, 13),
        ] as [(UInt64, UInt64?)])
    func xsetbv(value: UInt64, vector: UInt64?) throws {
        let machine = try run(Code.xsetbv, pair: value) {
            $0.cpu[1] = 0
            $0.cpu.fields.extendedComponents = 0xE4
        }
        #expect(machine.exception?.vector == vector)
        #expect(machine.cpu.fields.xcr0 == (vector == nil ? value : 1))
    }

    @Test("there is only XCR0, for the supervisor to set and for all to read")
    func registers() throws {
        #expect(try run(Code.xsetbv) { $0.cpu[1] = 1 }.exception?.vector == 13)
        #expect(try run(Code.xsetbv, cpl: 3) { $0.cpu[1] = 0 }.exception?.vector == 13)
        #expect(try run(Code.xgetbv) { $0.cpu[1] = 2 }.exception?.vector == 13)
        // HLT, which follows, is not for level 3.
        let user = try run(Code.xgetbv, cpl: 3) {
            $0.cpu[1] = 0
            $0.cpu.fields.xcr0 = 3
        }
        #expect(user.cpu[0] == 3)
        #expect(user.cpu[2] == 0)
    }

    @Test("outside 64-bit mode there are 8 XMM registers")
    func narrow() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        machine.cpu.fields.cr4 |= CR4.osxsave | CR4.osfxsr
        machine.cpu.fields.xcr0 = 3
        machine.put(BareMachine.code, bytes: Code.xsave + [0xF4])
        machine.cpu[0] = 3
        machine.cpu[2] = 0
        machine.cpu[7] = 0x20_0000
        for register in 0..<16 as Range<UInt8> {
            unsafe machine.cpu.xmm(register).storeBytes(of: 0x55, as: UInt64.self)
        }
        machine.runUntilHalt()
        #expect(machine.get(0x20_0000 + 160 + 7 * 16, as: UInt64.self) == 0x55)
        #expect(machine.get(0x20_0000 + 160 + 8 * 16, as: UInt64.self) == 0)
        #expect(machine.get(0x20_0000 + 512, as: UInt64.self) & 2 == 2)
    }
}
