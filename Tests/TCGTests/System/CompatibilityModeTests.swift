import Testing

@testable import TCG

/// 32-bit code in long mode, at the end of its addresses: those of its own accesses wrap (SDM
/// volume 3, section 4.1.1: "compatibility mode uses only 32-bit linear addresses").
@Suite("Compatibility mode at 4 GiB")
struct CompatibilityModeTests {
    /// Where the last page below 4 GiB is, and the one above; linear page 0 is physical page 0.
    private static let below: UInt64 = 0x5F_F000
    private static let above: UInt64 = 0x60_0000

    /// The two bytes at each of the three places.
    private func values(_ machine: BareMachine) -> [UInt16] {
        [Self.below + 0xFFE, Self.above, 0].map { machine.get($0, as: UInt16.self) }
    }

    private func machine(_ code: [UInt8], cpuCount: Int = 1) throws -> BareMachine {
        let machine = try BareMachine(cpuCount: cpuCount)
        try machine.enterLong()
        let tables = BareMachine.tables
        machine.put(tables + 0x1018, tables + 0x3000 | 7)
        machine.put(tables + 0x3FF8, UInt64(0x40_0087))
        machine.put(tables + 0x1020, tables + 0x4000 | 7)
        machine.put(tables + 0x4000, Self.above | 0x87)
        let cpu = machine.cpu
        cpu.setSegment(
            SegmentRegister.cs,
            Segment(selector: BareMachine.Selector.code32, attributes: 0xC09B, limit: .max))
        cpu.updateMode()
        machine.put(BareMachine.code, bytes: code + [0xF4])
        machine.put(Self.below + 0xFFE, UInt16(0xAAAA))
        machine.put(Self.above, UInt16(0xBBBB))
        machine.put(0, UInt16(0xCCCC))
        cpu[0] = 0
        cpu[2] = 0x4433_2211
        cpu[6] = 0xFFFF_FFFE
        return machine
    }

    // As Intel's processors do it, also where the segment's base is not 0. With a flat segment they
    // may fault instead (SDM volume 3, section 5.3).
    @Test(
        "reads",
        arguments: [
            [0x8B, 0x06], [0xAD], [0xF3, 0x0F, 0x7E, 0x06, 0x66, 0x0F, 0x7E, 0xC0],  // mov, lods, movq
            [0x0F, 0x10, 0x06, 0x66, 0x0F, 0x7E, 0xC0],  // movups xmm0, [esi]; movd eax, xmm0
        ] as [[UInt8]], [0, 0xFFFF_F000] as [UInt64])
    func reads(code: [UInt8], base: UInt64) throws {
        let machine = try machine(code)
        setBase(machine, base)
        machine.runUntilHalt()
        #expect(machine.cpu[0] == 0xCCCC_AAAA)
    }

    @Test(
        "writes",
        arguments: [
            [0x89, 0x16], [0x66, 0x0F, 0x6E, 0xC2, 0x66, 0x0F, 0x7E, 0x06],  // mov; movd xmm0
        ] as [[UInt8]], [0, 0xFFFF_F000] as [UInt64])
    func writes(code: [UInt8], base: UInt64) throws {
        let machine = try machine(code)
        setBase(machine, base)
        machine.runUntilHalt()
        #expect(values(machine) == [0x2211, 0xBBBB, 0x4433])
    }

    @Test("writes of 16 bytes, and of 512")
    func longWrites() throws {
        let vector = try machine([0x66, 0x0F, 0x6E, 0xC2, 0x0F, 0x11, 0x06])  // movups [esi], xmm0
        vector.runUntilHalt()
        #expect(values(vector) == [0x2211, 0xBBBB, 0x4433])
        let image = try machine([0x0F, 0xAE, 0x06])  // fxsave [esi]
        image.cpu[6] = 0xFFFF_FFF0
        image.runUntilHalt()
        #expect(image.get(8, as: UInt32.self) == 0x1F80, "MXCSR, at 24")
        #expect(image.get(Self.above + 8, as: UInt32.self) == 0)
    }

    @Test("LOCK, of one CPU and of two", arguments: [1, 2])
    func locked(cpuCount: Int) throws {
        let machine = try machine([0xF0, 0x01, 0x16], cpuCount: cpuCount)  // lock add [esi], edx
        machine.runUntilHalt()
        #expect(values(machine) == [0xCCBB, 0xBBBB, 0x10FF])
    }

    @Test("the second part of an operand that is read in two")
    func farPointer() throws {
        let machine = try machine([0x0F, 0xB4, 0x06])  // lfs eax, [esi]
        machine.cpu[6] = 0xFFFF_FFFC
        machine.put(Self.below + 0xFFC, UInt32(0x1234_5678))
        machine.put(0, BareMachine.Selector.data)
        machine.runUntilHalt()
        #expect(machine.cpu[0] == 0x1234_5678)
        #expect(machine.cpu.segment(SegmentRegister.fs).selector == BareMachine.Selector.data)
    }

    @Test("descriptor tables do not wrap")
    func descriptors() throws {
        let machine = try machine([0x66, 0x8E, 0xE0])  // mov fs, ax
        machine.cpu.fields.gdtr = TableRegister(base: 0xFFFF_FFF4, limit: 0x1FF)
        machine.cpu[0] = 8
        machine.put(Self.below + 0xFFC, UInt32(0x0000_FFFF))
        machine.put(Self.above, UInt32(0x00CF_9312))
        machine.runUntilHalt()
        #expect(machine.cpu.segment(SegmentRegister.fs).base == 0x12_0000)
    }

    private func setBase(_ machine: BareMachine, _ base: UInt64) {
        var segment = machine.cpu.segment(SegmentRegister.ds)
        segment.base = base
        machine.cpu.setSegment(SegmentRegister.ds, segment)
        machine.cpu.updateMode()
        machine.cpu[6] = (0xFFFF_FFFE &- base) & 0xFFFF_FFFF
    }
}
