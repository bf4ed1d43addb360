import TCGDecoder
import Testing

/// Encodings whose prefixes, modes or forms are easy to get wrong. The expectations are from the
/// SDM, volume 2.
@Suite("Decoder: prefixes and modes")
struct PrefixTests {
    private func decode(_ bytes: [UInt8], _ mode: CodeMode = .bits64) throws -> Instruction {
        guard case .instruction(let instruction) = Decoder(mode: mode).decode(bytes) else {
            Issue.record("\(bytes) was not decoded")
            throw Rejected()
        }
        return instruction
    }

    private struct Rejected: Error {}

    private func isUndefined(_ bytes: [UInt8], _ mode: CodeMode = .bits64) -> Bool {
        if case .undefined = Decoder(mode: mode).decode(bytes) { return true }
        return false
    }

    @Test("90 is NOP, PAUSE with F3 and an exchange with REX.B")
    func noOperation() throws {
        #expect(try decode([0x90]).mnemonic == .nop)
        #expect(try decode([0x48, 0x90]).mnemonic == .nop)
        #expect(try decode([0xF3, 0x90]).mnemonic == .pause)
        let exchange = try decode([0x41, 0x90])
        #expect(exchange.mnemonic == .xchg)
        #expect(exchange.operands[0] == Operand(kind: .general, size: 4, register: 8))
    }

    @Test("a REX counts only directly before the opcode")
    func staleRex() throws {
        let instruction = try decode([0x48, 0x66, 0x01, 0xC8])
        #expect(instruction.operandSize == 2)
        #expect(!instruction.prefixes.contains(.rex))
    }

    @Test("of F2 and F3 the last one counts")
    func lastRepeatPrefix() throws {
        #expect(try decode([0xF2, 0xF3, 0x0F, 0x10, 0xC1]).mnemonic == .movss)
        #expect(try decode([0xF3, 0xF2, 0x0F, 0x10, 0xC1]).mnemonic == .movsd)
        #expect(try decode([0xF2, 0xF3, 0xA4]).prefixes == [.rep])
    }

    @Test("byte registers 4-7 are the high halves without REX only")
    func highBytes() throws {
        #expect(
            try decode([0x88, 0xE0]).operands[1]
                == Operand(kind: .generalHigh, size: 1, register: 0))
        #expect(
            try decode([0x40, 0x88, 0xE0]).operands[1]
                == Operand(kind: .general, size: 1, register: 4))
    }

    @Test("64-bit mode ignores the overrides of ES, CS, SS and DS")
    func ignoredOverrides() throws {
        #expect(try decode([0x2E, 0x8B, 0x00]).memory.segment == 3)
        #expect(try decode([0x65, 0x8B, 0x00]).memory.segment == 5)
        #expect(try decode([0x26, 0x8B, 0x00], .bits32).memory.segment == 0)
    }

    @Test("stack bases use SS")
    func stackSegment() throws {
        #expect(try decode([0x8B, 0x04, 0x24]).memory.segment == 2)
        #expect(try decode([0x8B, 0x45, 0x00]).memory.segment == 2)
        // R13 has the same low bits as RBP but is no stack register.
        #expect(try decode([0x41, 0x8B, 0x45, 0x00]).memory.segment == 3)
        #expect(try decode([0x8B, 0x46, 0x00], .bits16).memory.segment == 2)
    }

    @Test("near branches of 64-bit mode ignore 66")
    func branchSizes() throws {
        let wide = try decode([0x66, 0xE8, 0, 0, 0, 0])
        #expect(wide.length == 6)
        #expect(wide.operandSize == 8)
        #expect(try decode([0x66, 0xE8, 0, 0], .bits32).length == 4)
        #expect(try decode([0x66, 0x50]).operandSize == 2)
        #expect(try decode([0x50]).operandSize == 8)
    }

    @Test("LOCK is only for memory destinations of some instructions")
    func lock() throws {
        #expect(try decode([0xF0, 0x01, 0x08]).prefixes.contains(.lock))
        #expect(isUndefined([0xF0, 0x01, 0xC8]))
        #expect(isUndefined([0xF0, 0x03, 0x08]))
        #expect(isUndefined([0xF0, 0x39, 0x08]))
        #expect(isUndefined([0xF0, 0x90]))
    }

    @Test("instructions of one mode only")
    func modes() throws {
        #expect(isUndefined([0x06]))
        #expect(isUndefined([0xCE]))
        #expect(try decode([0x06], .bits32).mnemonic == .push)
        #expect(try decode([0x40], .bits32).mnemonic == .inc)
        #expect(try decode([0x63, 0xC1]).mnemonic == .movsxd)
        #expect(try decode([0x63, 0xC1], .bits32).mnemonic == .arpl)
        #expect(isUndefined([0x0F, 0x01, 0xF8], .bits32))
    }

    @Test("C4, C5 and 62 are LES, LDS and BOUND with memory outside 64-bit mode")
    func escapesOutside64() throws {
        #expect(try decode([0xC4, 0x00], .bits32).mnemonic == .les)
        #expect(try decode([0xC5, 0x00], .bits16).mnemonic == .lds)
        #expect(try decode([0x62, 0x00], .bits32).mnemonic == .bound)
        #expect(try decode([0x8F, 0x00]).mnemonic == .pop)
    }

    @Test("SIB without base has a 32-bit displacement, whatever REX.B says")
    func noBase() throws {
        let instruction = try decode([0x41, 0x8B, 0x04, 0xAD, 1, 0, 0, 0])
        #expect(instruction.memory.base == MemoryOperand.noRegister)
        #expect(instruction.memory.index == 5)
        #expect(instruction.memory.scale == 4)
        #expect(instruction.memory.displacement == 1)
    }

    @Test("a displacement without base or index is relative in 64-bit mode")
    func instructionPointer() throws {
        let relative = try decode([0x8B, 0x05, 0xFF, 0xFF, 0xFF, 0xFF])
        #expect(relative.memory.base == MemoryOperand.instructionPointer)
        #expect(relative.memory.displacement == -1)
        #expect(
            try decode([0x8B, 0x05, 1, 0, 0, 0], .bits32).memory.base == MemoryOperand.noRegister)
    }

    @Test("MOV's absolute address has the address size")
    func absoluteAddress() throws {
        let wide = try decode([0xA1, 1, 2, 3, 4, 5, 6, 7, 8])
        #expect(wide.length == 9)
        #expect(wide.memory.displacement == 0x0807_0605_0403_0201)
        #expect(try decode([0x67, 0xA1, 1, 2, 3, 4]).length == 6)
        #expect(try decode([0xA1, 1, 2], .bits16).length == 3)
    }

    @Test("moves of control registers ignore ModRM.mod")
    func controlRegisters() throws {
        let instruction = try decode([0x0F, 0x20, 0x00])
        #expect(instruction.length == 3)
        #expect(instruction.operands[0] == Operand(kind: .general, size: 8, register: 0))
        #expect(instruction.operands[1] == Operand(kind: .control, size: 8, register: 0))
        #expect(isUndefined([0x0F, 0x20, 0xC8]))
    }

    @Test("a move to CS does not exist")
    func moveToCS() {
        #expect(isUndefined([0x8E, 0xC8]))
        #expect(isUndefined([0x8E, 0xF0]))
    }

    @Test("missing bytes are told apart from too many")
    func lengths() {
        let prefixes = [UInt8](repeating: 0x66, count: 15)
        guard case .tooLong = Decoder(mode: .bits64).decode(prefixes) else {
            Issue.record("15 prefixes are too long")
            return
        }
        guard case .truncated = Decoder(mode: .bits64).decode([UInt8](prefixes.prefix(14))) else {
            Issue.record("14 prefixes are truncated")
            return
        }
        guard case .truncated = Decoder(mode: .bits64).decode([0x48, 0xB8, 1, 2, 3]) else {
            Issue.record("an immediate is missing")
            return
        }
        let longest = [UInt8](repeating: 0x66, count: 11) + [0x05, 1, 2]
        guard case .instruction(let instruction) = Decoder(mode: .bits64).decode(longest) else {
            Issue.record("14 bytes are allowed")
            return
        }
        #expect(instruction.length == 14)
    }
}
