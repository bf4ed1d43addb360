import Testing

@testable import TCG

/// The same pages of code at several linear addresses.
@Suite("Code that moves")
struct MovedCodeTests {
    /// Physical pages: the program's two, and another for the second one.
    private static let first: UInt64 = 0x60_0000
    private static let second: UInt64 = 0x60_1000
    private static let other: UInt64 = 0x60_2000
    private static let value: UInt64 = 0x1234_5678_9ABC_DEF0

    /// Threshold of translation: the interpreter alone, both, translated code alone, and traces.
    static let tiers: [Int32] = [-1, 1, 0, 2, 4]

    /// User mode with the program in its pages, and what calls it at R12 and then at R13.
    private func machine(_ tier: Int32) throws -> BareMachine {
        let machine = try BareMachine.running(
            [
                0x31, 0xD2, 0x41, 0xFF, 0xD4,  // xor edx, edx; call r12
                0x4D, 0x89, 0xC6, 0x49, 0x89, 0xF7,  // mov r14, r8; mov r15, rsi
                0x41, 0xFF, 0xD5, 0xF4,  // call r13; hlt, which faults
            ], cpl: 3)
        machine.cpu.fields.translationThreshold = tier
        unsafe machine.cpu.fxImage.storeBytes(
            of: 0x37F, toByteOffset: FXImage.controlWord, as: UInt16.self)
        machine.put(
            Self.first,
            bytes: [
                0x48, 0x8D, 0x05, 0xF9, 0x0F, 0x00, 0x00,  // lea rax, [rel 1000]
                0x48, 0x8B, 0x1D, 0xF2, 0x17, 0x00, 0x00,  // mov rbx, [rel 1800]
                0xE8, 0xFD, 0x0F, 0x00, 0x00,  // call 1010
                0xE8, 0xE8, 0x00, 0x00, 0x00,  // call 100
                0xB9, 0x03, 0x00, 0x00, 0x00,  // mov ecx, 3
                0xFF, 0xC2, 0xE2, 0xFC,  // again: inc edx; loop again
                0xD9, 0xE8, 0xDD, 0xD8,  // fld1; fstp st0
                0x48, 0x0F, 0xAE, 0x04, 0x25, 0x00, 0x80, 0x00, 0x00,  // fxsave64 [8000]
                0xB9, 0x02, 0x00, 0x00, 0x00,  // mov ecx, 2
                0xFF, 0xC9, 0x75, 0xFC,  // again: dec ecx; jnz again
                0xE9, 0xC2, 0x0F, 0x00, 0x00,  // jmp ffe
            ])
        machine.put(Self.first + 0x100, bytes: [0x4C, 0x8B, 0x0C, 0x24, 0xC3])  // mov r9, [rsp]; ret
        machine.put(Self.first + 0xFFE, bytes: [0xBE, 0x44])  // mov esi, imm32; ret
        for (page, number) in [(Self.second, UInt8(0x11)), (Self.other, 0x55)] {
            machine.put(page, bytes: [0x33, 0x22, number, 0xC3])
            // mov r8, [rsp]; mov edi, number; ret
            machine.put(
                page + 0x10, bytes: [0x4C, 0x8B, 0x04, 0x24, 0xBF, number, 0, 0, 0, 0xC3])
            machine.put(page + 0x800, Self.value)
        }
        return machine
    }

    private func program(at linear: UInt64) -> [(linear: UInt64, physical: UInt64)] {
        [(linear, Self.first), (linear + 0x1000, Self.second)]
    }

    private func run(
        _ machine: BareMachine, _ space: UInt64, _ r12: UInt64, _ r13: UInt64
    ) throws {
        let cpu = machine.cpu
        cpu.fields.cpl = 0
        try machine.enterLong(cpl: 3)
        try cpu.loadCR3(space)
        (cpu[12], cpu[13]) = (r12, r13)
        cpu.fields.isHalted = false
        machine.runUntilHalt()
        #expect(machine.exception?.vector == 13)
        #expect(machine.exception?.rip == BareMachine.code + 14)
    }

    /// What the program leaves when it was at `linear`.
    private func check(
        _ machine: BareMachine, _ linear: UInt64, esi: UInt64 = 0x1122_3344, edi: UInt64 = 0x11,
        runs: UInt64 = 2
    ) {
        let cpu = machine.cpu
        #expect(cpu[0] == linear + 0x1000)
        #expect(cpu[3] == Self.value)
        #expect(cpu[8] == linear + 0x13)
        #expect(cpu[9] == linear + 0x18)
        #expect(cpu[2] == 3 * runs)
        #expect(machine.get(0x8008, as: UInt64.self) == linear + 0x23, "FIP")
        #expect(cpu[6] == esi)
        #expect(cpu[7] == edi)
    }

    @Test("programs that are started again are moved, and know where they are", arguments: tiers)
    func manyTimes(tier: Int32) throws {
        let machine = try machine(tier)
        var counts: [Int] = []
        for round in UInt64(1)...12 {
            let linear = BareMachine.place(round)
            let space = machine.makeSpace(round, program(at: linear))
            try run(machine, space, linear, linear)
            check(machine, linear)
            counts.append(machine.cpu.codeCache?.translator?.blockCount ?? 0)
        }
        #expect(counts[5] == counts[11], "nothing was translated again")
    }

    @Test("programs that run in turns get blocks of their own", arguments: tiers)
    func inTurns(tier: Int32) throws {
        let machine = try machine(tier)
        let places = (UInt64(1)...3).map { BareMachine.place($0) }
        let spaces = places.enumerated().map {
            machine.makeSpace(UInt64($0.offset), program(at: $0.element))
        }
        var counts: [Int] = []
        for round in 0..<24 {
            let linear = places[round % 3]
            try run(machine, spaces[round % 3], linear, linear)
            check(machine, linear)
            counts.append(machine.cpu.codeCache?.translator?.blockCount ?? 0)
        }
        #expect(counts[17] == counts[23])
    }

    @Test("one address space can have a page twice", arguments: tiers)
    func twice(tier: Int32) throws {
        let machine = try machine(tier)
        for round in UInt64(1)...6 {
            let (here, there) = (BareMachine.place(round), BareMachine.place(round + 20))
            let space = machine.makeSpace(round, program(at: here) + program(at: there))
            for _ in 0..<3 {
                try run(machine, space, here, there)
                check(machine, there)
                #expect(machine.cpu[14] == here + 0x13)
                try run(machine, space, there, here)
                check(machine, here)
                #expect(machine.cpu[14] == there + 0x13)
            }
        }
    }

    @Test("a link is not followed when what it leads to has moved away", arguments: tiers)
    func apart(tier: Int32) throws {
        let machine = try machine(tier)
        let (here, there) = (BareMachine.place(1), BareMachine.place(2))
        let whole = machine.makeSpace(1, program(at: here))
        let split = machine.makeSpace(
            2,
            [(here, Self.first), (here + 0x1000, Self.other), (there + 0x1000, Self.second)])
        let moved = machine.makeSpace(
            3, [(there, Self.first), (there + 0x1000, Self.other)])
        for round in 0..<6 {
            try run(machine, whole, here, here)
            check(machine, here)
            let function = there + 0x1010
            let isFirst = round & 1 == 0
            try run(machine, split, isFirst ? function : here, isFirst ? here : function)
            if isFirst {
                check(machine, here, esi: 0x5522_3344, edi: 0x55, runs: 1)
            } else {
                #expect(machine.cpu[7] == 0x11)
                #expect(machine.cpu[15] == 0x5522_3344)
            }
            try run(machine, moved, there, there)
            check(machine, there, esi: 0x5522_3344, edi: 0x55)
        }
    }

    @Test("code that is written between the runs is seen", arguments: tiers)
    func written(tier: Int32) throws {
        let machine = try machine(tier)
        for round in UInt64(1)...8 {
            let linear = BareMachine.place(round)
            let space = machine.makeSpace(round, program(at: linear))
            let number = UInt8(round)
            if round & 1 == 0 {
                try machine.cpu.store(Self.second + 0x15, number)
                try machine.cpu.store(Self.second + 1, number)
            } else {
                machine.put(Self.second + 0x15, number)
                machine.put(Self.second + 1, number)
            }
            try run(machine, space, linear, linear)
            check(machine, linear, esi: 0x1100_3344 | round << 16, edi: round)
        }
    }
}
