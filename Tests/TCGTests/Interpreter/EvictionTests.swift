import Testing

@testable import TCG

/// More code than there is room for.
@Suite("Code that goes for want of room")
struct EvictionTests {
    private static let functions: UInt64 = 0x40_0000
    private static let count = 4096
    /// Room for about a tenth of it.
    private static let small: UInt64 = 3 << 19

    /// Calls functions in a random order, each of which goes on to some others:
    ///
    ///     again: imul rbp, rbp, A; add rbp, C; mov rdx, rbp; shr rdx, 20; mov esi, edx
    ///     and esi, 7; inc esi; shr edx, 4; and edx, 4095; shl edx, 5; add rdx, functions
    ///     (mov [rdx + 7], cl;) call rdx; dec ecx; jnz again; hlt
    private static func caller(writes: Bool) -> [UInt8] {
        let body: [UInt8] =
            [
                0x48, 0x69, 0xED, 0x6D, 0x4E, 0xC6, 0x41, 0x48, 0x81, 0xC5, 0x39, 0x30, 0, 0,
                0x48, 0x89, 0xEA, 0x48, 0xC1, 0xEA, 0x14, 0x89, 0xD6,
                0x83, 0xE6, 0x07, 0xFF, 0xC6, 0xC1, 0xEA, 0x04, 0x81, 0xE2, 0xFF, 0x0F, 0, 0,
                0xC1, 0xE2, 0x05, 0x48, 0x81, 0xC2, 0, 0, 0x40, 0,
            ] + (writes ? [0x88, 0x4A, 0x07] : []) + [0xFF, 0xD2, 0xFF, 0xC9]
        return body + [0x75, UInt8(truncatingIfNeeded: -(body.count + 2)), 0xF4]
    }

    /// add rax, imm32; test al, imm8; jz over; xor rbx, rax; over: dec esi; jz out; jmp another;
    /// out: ret
    private static func function(_ number: Int) -> [UInt8] {
        let next = (number * 37 + 11) % count
        let distance = Int32((next - number) * 32 - 22)
        return [0x48, 0x05] + bytes(Int32(truncatingIfNeeded: number &* 0x9E37_79B1))
            + [0xA8, 1 << UInt8(number & 7), 0x74, 0x03, 0x48, 0x31, 0xC3, 0xFF, 0xCE, 0x74, 0x05]
            + [0xE9] + bytes(distance) + [0xC3]
    }

    private static func bytes(_ value: Int32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }

    private func machine(
        _ turns: Int, threshold: Int32, room: UInt64?, writes: Bool
    ) throws -> BareMachine {
        let machine = try BareMachine.running(
            [0xB9] + Self.bytes(Int32(turns)) + Self.caller(writes: writes), codeCacheSize: room)
        for number in 0..<Self.count {
            machine.put(Self.functions + UInt64(number) * 32, bytes: Self.function(number))
        }
        machine.cpu.fields.translationThreshold = threshold
        for number: UInt8 in [0, 3, 5] { machine.cpu[number] = 0 }
        machine.runUntilHalt()
        #expect(machine.exception == nil)
        return machine
    }

    @Test(
        "changes nothing",
        arguments: [-1, 0, 1, 4] as [Int32], [false, true])
    func same(threshold: Int32, writes: Bool) throws {
        let turns = writes ? 10_000 : 30_000
        let one = try machine(turns, threshold: threshold, room: Self.small, writes: writes)
        let other = try machine(turns, threshold: -1, room: nil, writes: writes)
        for number: UInt8 in 0..<16 { #expect(one.cpu[number] == other.cpu[number]) }
        #expect(one.cpu.fields.retired == other.cpu.fields.retired)
        let evictions = one.cpu.counters.evictions
        #expect(evictions.regions > 50)
        #expect(evictions.blocks > 5000)
        // Blocks that must run more often than that are mostly gone before they are translated.
        switch threshold {
        case 0, 1:
            #expect(evictions.codeRegions > 10)
            #expect(evictions.codes > 2500)
        case 4: #expect(evictions.codes > 50)
        default: #expect(evictions.codes == 0)
        }
        #expect(other.cpu.counters.evictions.regions == 0)
        #expect(one.cpu.counters.flushes == 0)
    }

    @Test("the room stays what it was")
    func bounded() throws {
        let machine = try machine(60_000, threshold: 1, room: Self.small, writes: false)
        let cache = try #require(machine.cpu.codeCache)
        #expect(cache.arenaSize == Int(Self.small) / 3)
        #expect(cache.regions.used <= cache.arenaSize)
        let arena = try #require(cache.translator).arena
        #expect(arena.capacity == 2 * cache.arenaSize)
        // What is noted about code goes with the code.
        var noted = 0
        for region in 0..<arena.hot.count { noted += cache.notes.take(region).count }
        #expect(noted > 0)
        #expect(noted < arena.hot.used / 16)
    }

    // MARK: Traces of several regions

    /// Decodes many short blocks, until those of another region are wanted.
    private func fill(_ machine: BareMachine, _ number: inout UInt64) {
        let start = Self.functions + number * 64
        number += 1
        for jump in UInt64(0)..<20 { machine.put(start + jump * 2, bytes: [0xEB, 0x00]) }
        machine.put(start + 40, bytes: [0xF4])
        run(machine, start)
    }

    private func run(_ machine: BareMachine, _ rip: UInt64) {
        machine.cpu.rip = rip
        machine.cpu.fields.isHalted = false
        machine.runUntilHalt()
        #expect(machine.exception == nil)
    }

    private func block(_ machine: BareMachine, _ linear: UInt64) throws -> Block {
        try #require(
            machine.cpu.codeCache?.find(
                physical: linear, linear: linear, key: machine.cpu.fields.modeKey,
                mayMove: { _ in false }, { _ in true }))
    }

    @Test("a trace goes with the first of its blocks that goes")
    func trace() throws {
        let machine = try BareMachine.running(
            [
                0x48, 0xFF, 0xC0, 0xFF, 0xCA, 0x74, 0x09,  // old: inc rax; dec edx; jz out
                0x48, 0x01, 0xC3, 0xFF, 0xC9, 0x75, 0xF2,  // new: add rbx, rax; dec ecx; jnz old
                0xF4, 0x90, 0xF4,  // hlt; nop; out: hlt
            ], codeCacheSize: Self.small)
        let cpu = machine.cpu
        cpu.fields.translationThreshold = 8
        let (oldPlace, newPlace) = (BareMachine.code, BareMachine.code + 7)
        var number: UInt64 = 0
        cpu[2] = 1
        run(machine, oldPlace)
        let cache = try #require(cpu.codeCache)
        while cache.regions.current == 0 { fill(machine, &number) }
        // The new one is translated first, with the old one.
        let old = try block(machine, oldPlace)
        unsafe old.header.pointee.heat = 10
        (cpu[0], cpu[1], cpu[2], cpu[3]) = (0, 40, 1000, 0)
        run(machine, newPlace)
        #expect(cpu[3] == 780)
        let new = try block(machine, newPlace)
        #expect(unsafe new.header.pointee.host != 0)
        let isApart = new.allParts { $0.address != old.address }
        #expect(!isApart)
        #expect(cache.region(of: old) == 0)
        #expect(cache.region(of: new) == 1)
        while cache.regions.current != 0 { fill(machine, &number) }
        #expect(try block(machine, newPlace).address == new.address)
        #expect(unsafe new.header.pointee.host == 0)
        #expect(unsafe new.header.pointee.partCount == 0)
        (cpu[0], cpu[1], cpu[2], cpu[3]) = (0, 40, 1000, 0)
        run(machine, newPlace)
        #expect(cpu[3] == 780)
    }
}
