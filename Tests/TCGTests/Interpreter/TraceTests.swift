import Testing

@testable import TCG

/// Blocks that are translated together are one piece of code, and stay many for everybody else.
@Suite("Traces")
struct TraceTests {
    /// A loop of four blocks, of which the last but one ends with a branch that is taken once in
    /// eight times:
    ///
    ///     mov ecx, 200
    ///     again: add eax, 1; call f; test ecx, 7; jnz over; inc edx
    ///     over: add qword [rsi], 1; dec ecx; jnz again; hlt
    ///     f: add ebx, eax; jmp g; g: ret
    private static let loop: [UInt8] = [
        0xB9, 0xC8, 0x00, 0x00, 0x00,
        0x83, 0xC0, 0x01, 0xE8, 0x13, 0x00, 0x00, 0x00, 0xF7, 0xC1, 0x07, 0x00, 0x00, 0x00,
        0x75, 0x02, 0xFF, 0xC2,
        0x48, 0x83, 0x06, 0x01, 0xFF, 0xC9, 0x75, 0xE6, 0xF4,
        0x01, 0xC3, 0xEB, 0x00, 0xC3,
    ]
    /// Where `add qword [rsi], 1` is.
    private static let store = BareMachine.code + 23

    private func machine(_ code: [UInt8], threshold: Int32) throws -> BareMachine {
        let machine = try BareMachine.running(code)
        machine.cpu.fields.translationThreshold = threshold
        for number: UInt8 in 0..<4 { machine.cpu[number] = 0 }
        machine.cpu[6] = 0x20_0000
        return machine
    }

    private func blocks(_ machine: BareMachine) throws -> [Block] {
        let cache = try #require(machine.cpu.codeCache)
        var found: [Block] = []
        for offset in UInt64(0)..<64 {
            let linear = BareMachine.code + offset
            if let block = cache.find(
                physical: linear, linear: linear, key: machine.cpu.fields.modeKey,
                mayMove: { _ in false }, { _ in true })
            {
                found.append(block)
            }
        }
        return found
    }

    @Test("are made of what follows most often, and change nothing")
    func same() throws {
        let one = try machine(Self.loop, threshold: 8)
        let other = try machine(Self.loop, threshold: -1)
        for machine in [one, other] {
            machine.runUntilHalt()
            #expect(machine.exception == nil)
            #expect(machine.cpu[0] == 200)
            #expect(machine.cpu[2] == 25)
            #expect(machine.cpu[3] == 20100)
            #expect(machine.get(0x20_0000, as: UInt64.self) == 200)
        }
        #expect(one.cpu.fields.retired == other.cpu.fields.retired)
        #expect(one.cpu.arithmeticFlags == other.cpu.arithmeticFlags)
        let parts = try blocks(one).map { unsafe Int($0.header.pointee.partCount) }
        #expect(parts.contains { $0 >= 2 })
    }

    @Test(
        "end with the budget", arguments: [300, 301, 302, 303, 304, 305, 306, 307, 308, 309, 310])
    func budget(count: Int) throws {
        let machine = try machine(Self.loop, threshold: 8)
        machine.cpu.budget = Int64(count)
        machine.cpu.fields.pendingEffect = 1
        machine.cpu.execute()
        #expect(machine.cpu.fields.retired == UInt64(count))
        let plain = try self.machine(Self.loop, threshold: -1)
        plain.cpu.execute(count: count)
        #expect(machine.cpu.rip == plain.cpu.rip)
        for number: UInt8 in 0..<16 { #expect(machine.cpu[number] == plain.cpu[number]) }
    }

    @Test("a fault inside counts what came before it, and nothing else")
    func fault() throws {
        let machines = try [8, -1].map { try machine(Self.loop, threshold: $0) }
        for machine in machines {
            machine.cpu.budget = 900
            machine.cpu.fields.pendingEffect = 1
            machine.cpu.execute()
            machine.cpu[6] = 0x7FFF_FFF0
            machine.cpu.fields.pendingEffect = 0
            machine.runUntilHalt()
            #expect(try #require(machine.exception) == (14, Self.store))
        }
        #expect(machines[0].cpu.fields.retired == machines[1].cpu.fields.retired)
        for number: UInt8 in 0..<4 { #expect(machines[0].cpu[number] == machines[1].cpu[number]) }
    }

    /// The first instruction of the loop stores what EDI says into `inc edx`: at first what is
    /// there, later something else.
    ///
    ///     mov ecx, 100
    ///     again: mov [r8], edi; add eax, 1; test eax, 1; jz over; inc edx; nop; nop
    ///     over: dec ecx; jnz again; hlt
    @Test("a store to a later block of its own trace is seen at once")
    func selfModification() throws {
        let code: [UInt8] = [
            0xB9, 0x64, 0x00, 0x00, 0x00,
            0x41, 0x89, 0x38, 0x83, 0xC0, 0x01, 0xA9, 0x01, 0x00, 0x00, 0x00, 0x74, 0x04,
            0xFF, 0xC2, 0x90, 0x90,
            0xFF, 0xC9, 0x75, 0xEB, 0xF4,
        ]
        for threshold: Int32 in [4, 8, -1] {
            let machine = try machine(code, threshold: threshold)
            // At first the store goes elsewhere.
            machine.cpu[8] = 0x20_0000
            machine.cpu.budget = 451
            machine.cpu.fields.pendingEffect = 1
            machine.cpu.execute()
            let (before, left) = (machine.cpu[2], machine.cpu[1])
            machine.cpu[8] = BareMachine.code + 18
            machine.cpu[7] = 0x9090_CAFF  // dec edx; nop; nop
            machine.cpu.fields.pendingEffect = 0
            machine.cpu.rip = BareMachine.code + 5
            machine.runUntilHalt()
            #expect(machine.exception == nil)
            let odd = (UInt32(truncatingIfNeeded: left) + 1) / 2
            let change = UInt32(truncatingIfNeeded: before &- machine.cpu[2])
            #expect(change == odd || change + 1 == odd || change == odd + 1)
            #expect(machine.cpu[1] == 0)
        }
    }

    /// A: `add eax, 1; jmp P`; P: `add edx, 1; test ecx, 1; jz T`; F: `add esi, 1; hlt`;
    /// T: `add edi, 1; hlt`; X: `jmp P`. A's code has P, and P's own, which X's jumps to, has F.
    @Test("what one compares another one that has the same block does not rely on")
    func sharedBlock() throws {
        let machine = try machine(
            [
                0x83, 0xC0, 0x01, 0xEB, 0x00, 0x83, 0xC2, 0x01, 0xF7, 0xC1, 0x01, 0x00, 0x00, 0x00,
                0x74, 0x04, 0x83, 0xC6, 0x01, 0xF4, 0x83, 0xC7, 0x01, 0xF4, 0xEB, 0xEB,
            ], threshold: 4)
        func run(_ offset: UInt64, _ ecx: UInt64, _ count: Int = 8) {
            for _ in 0..<count {
                machine.cpu.rip = BareMachine.code + offset
                machine.cpu[1] = ecx
                machine.cpu.fields.isHalted = false
                machine.runUntilHalt()
            }
        }
        func heat(_ offset: UInt64, _ heat: Int32) throws {
            let linear = BareMachine.code + offset
            let block = try #require(
                try blocks(machine).first { unsafe $0.header.pointee.linear == linear })
            unsafe block.header.pointee.heat = heat
        }
        run(5, 1, 1)
        run(5, 0, 1)
        try heat(5, 1000)
        run(0, 0)
        try heat(5, 0)
        try heat(16, 0)
        try heat(20, 1000)
        run(5, 1)
        run(24, 1)
        let all = try blocks(machine)
        try #require(all.map { unsafe Int($0.header.pointee.partCount) } == [1, 1, 0, 0, 0])
        // F becomes `sub esi, 1`, as by a device.
        machine.put(BareMachine.code + 17, UInt8(0xEE))
        machine.cpu.flushCodeLookups()
        machine.cpu[6] = 100
        run(0, 0, 1)
        run(24, 1, 1)
        #expect(machine.cpu[6] == 99)
    }

    @Test("bytes that change without a word are found when the trace is looked up again")
    func outsideChange() throws {
        let machine = try machine(Self.loop, threshold: 8)
        machine.runUntilHalt()
        // `add ebx, eax` becomes `sub ebx, eax`, as by a device.
        machine.put(BareMachine.code + 32, UInt8(0x29))
        machine.cpu.flushCodeLookups()
        for number: UInt8 in 0..<4 { machine.cpu[number] = 0 }
        machine.cpu.rip = BareMachine.code
        machine.cpu.fields.isHalted = false
        machine.runUntilHalt()
        #expect(UInt32(truncatingIfNeeded: machine.cpu[3]) == UInt32(bitPattern: -20100))
    }
}
