import Accelerator
import Testing

@testable import TCG

/// `tier=both`.
@Suite("Both tiers at once")
struct LockstepTests {
    /// Adds up in RCX and at 0x9000, pushes, calls, copies a page and a half, and reads an absent
    /// page now and then.
    private static let program: [UInt8] = [
        0xB9, 0x64, 0x00, 0x00, 0x00,  // 00: mov ecx, 100
        0x01, 0x0C, 0x25, 0x00, 0x90, 0x00, 0x00,  // 05: again: add [9000], ecx
        0x51,  // 0C: push rcx
        0xE8, 0x05, 0x00, 0x00, 0x00,  // 0D: call function
        0x59,  // 12: pop rcx
        0xFF, 0xC9, 0x75, 0xEE,  // 13: dec ecx; jnz again
        // 17: function, which begins with the machine's end:
        0xE3, 0x0D,  // jrcxz 26
        0xBE, 0x00, 0x50, 0x00, 0x00,  // 19: mov esi, 5000
        0xBF, 0x80, 0xB0, 0x00, 0x00,  // 1E: mov edi, b080
        0xF3, 0xA4,  // 23: rep movsb
        0xC3,  // 25: ret
        0xF4,  // 26: hlt
    ]

    private func machine(_ bytes: [UInt8]) throws -> BareMachine {
        let machine = try BareMachine.running(bytes, tier: .both)
        machine.runUntilHalt()
        return machine
    }

    private func lockstep(_ machine: BareMachine) throws -> Lockstep {
        try #require(machine.vcpu.lockstep)
    }

    @Test("what is right in both tiers goes on, and is counted")
    func same() throws {
        let machine = try machine(Self.program)
        let lockstep = try lockstep(machine)
        #expect(machine.cpu.fields.isHalted)
        #expect(lockstep.report == nil)
        #expect(machine.get(0x9000, as: UInt32.self) == 5050)
        #expect(machine.get(0xB080, as: UInt8.self) == 0xB9)
        #expect(lockstep.comparedRuns >= 300)
        #expect(lockstep.otherRuns == 0)
        #expect(machine.vcpu.summary?.contains("\(lockstep.comparedRuns) runs") == true)
    }

    @Test("page faults, and the accessed and dirty bits of pages, are the same in both tiers")
    func faults() throws {
        let machine = try machine([
            0xB8, 0x39, 0x30, 0x00, 0x00,  // mov eax, 12345
            0x89, 0x04, 0x25, 0x00, 0x00, 0x40, 0x00,  // mov [400000], eax
            0x03, 0x04, 0x25, 0x00, 0x00, 0x80, 0x00,  // add eax, [800000]
            0xF4,  // hlt
        ])
        #expect(try lockstep(machine).report == nil)
        #expect(machine.exception?.vector == 14)
        #expect(machine.get(0x40_0000, as: UInt32.self) == 12345)
        // The 2 MiB page at 4 MiB.
        #expect(machine.get(BareMachine.tables + 0x2010, as: UInt64.self) & 0x60 == 0x60)
    }

    @Test("devices are reached once, and such runs are not compared")
    func devices() throws {
        let machine = try BareMachine.running(
            [
                0x8B, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00,  // mov eax, [600000]
                0x89, 0x04, 0x25, 0x10, 0x00, 0x60, 0x00,  // mov [600010], eax
                0xE6, 0x80, 0xF4,  // out 80, al; hlt
            ], tier: .both)
        // Where there is no memory.
        machine.put(BareMachine.tables + 0x2018, UInt64(0xF000_0000 | 0x87))
        machine.runUntilHalt()
        let lockstep = try lockstep(machine)
        #expect(lockstep.report == nil)
        #expect(machine.surface.reads.count == 1)
        #expect(machine.surface.writes.map(\.address) == [0xF000_0010])
        #expect(machine.surface.portWrites.count == 1)
        #expect(lockstep.otherRuns >= 1)
    }

    /// Changes the first of some bytes in the translated code at RIP `address`.
    private func damage(
        _ machine: BareMachine, at address: UInt64, _ bytes: [UInt8], to value: UInt8
    ) throws {
        let cpu = machine.cpu
        cpu.rip = address
        let cache = try #require(cpu.makeCodeCache())
        let translator = try #require(cache.translator)
        let block = try cpu.findBlock(cache, single: false)
        let code = unsafe translator.code(of: block)
        let start = translator.arena.offset(of: UInt(bitPattern: code.baseAddress))
        let all = unsafe [UInt8](code)
        let offset = try #require(
            (0..<all.count - bytes.count).first { place in
                bytes.indices.allSatisfy { all[place + $0] == bytes[$0] }
            })
        unsafe translator.arena.writable(start + offset).storeBytes(of: value, as: UInt8.self)
    }

    private func runAgain(_ machine: BareMachine) {
        machine.cpu.rip = BareMachine.code
        machine.cpu.fields.isHalted = false
        machine.runUntilHalt()
    }

    @Test("a wrong byte in translated code ends the machine, and the report shows it")
    func wrongRegister() throws {
        let machine = try machine(Self.program)
        try damage(machine, at: BareMachine.code, [0x64, 0, 0, 0], to: 0x65)
        runAgain(machine)
        let report = try #require(try lockstep(machine).report)
        #expect(!machine.cpu.fields.isHalted)
        let lines = report.split(separator: "\n")
        #expect(lines.first?.contains("0x5000") == true)
        #expect(lines.contains { $0.contains("0000000000005000 b9 64 00 00 00") })
        let register = lines.first { $0.contains("rcx") }?.split(separator: " ")
        #expect(register?.dropFirst(2) == ["0000000000000064", "0000000000000065"])
        #expect(!lines.contains { $0.contains("  rax") || $0.contains("  rip") })
        // What Tools/list-code reads: the loop's head has two operations, and ends without a branch.
        #expect(lines.contains("  block 0000000000005000 kernel"))
        #expect(lines.contains("  guest 0 0000000000005000 b9 64 00 00 00"))
        for start in ["  host entry ", "  host 0 ", "  rare entry ", "  rare data "] {
            #expect(lines.contains { $0.hasPrefix(start) }, "\(start) in \(report)")
        }
        guard case .internalError(let text) = machine.vcpu.run() else {
            Issue.record("the CPU goes on")
            return
        }
        #expect(text == report)
    }

    @Test("a wrong address of a write is seen in memory")
    func wrongWrite() throws {
        let machine = try machine([
            0xBB, 0x00, 0x90, 0x00, 0x00, 0xEB, 0x00,  // mov ebx, 9000; jmp on
            0xC7, 0x83, 0x80, 0x01, 0x00, 0x00, 0x78, 0x56, 0x34, 0x12,  // mov [rbx+180], 12345678
            0xF4,  // hlt
        ])
        #expect(try lockstep(machine).report == nil)
        machine.put(0x9180, UInt32(0))
        try damage(machine, at: BareMachine.code + 7, [0x80, 0x01, 0, 0], to: 0x88)
        runAgain(machine)
        let report = try #require(try lockstep(machine).report)
        let lines = report.split(separator: "\n")
        #expect(
            lines.contains {
                $0.split(separator: " ") == [
                    "0000000000009180", "0000000000000000", "0000000012345678", "0000000000000000",
                ]
            }, "\(report)")
        #expect(lines.contains { $0.contains("0000000000009188") })
    }
}
