import TCGDecoder
import Testing

/// VEX and EVEX encodings worked out by hand from the SDM, volume 2.
@Suite("Decoder: VEX and EVEX")
struct VectorTests {
    private func decode(_ bytes: [UInt8], _ mode: CodeMode = .bits64) -> Instruction? {
        guard case .instruction(let instruction) = Decoder(mode: mode).decode(bytes) else {
            return nil
        }
        return instruction
    }

    @Test("vaddps ymm1, ymm2, ymm3")
    func threeOperands() throws {
        let instruction = try #require(decode([0xC5, 0xEC, 0x58, 0xCB]))
        #expect(instruction.mnemonic == .vex)
        #expect(instruction.feature == .avx)
        #expect(instruction.vectorLength == 32)
        #expect(instruction.operandCount == 3)
        #expect(instruction.operands[0] == Operand(kind: .vector, size: 32, register: 1))
        #expect(instruction.operands[1] == Operand(kind: .vector, size: 32, register: 2))
        #expect(instruction.operands[2] == Operand(kind: .vector, size: 32, register: 3))
    }

    @Test("vblendvps takes its mask register from the immediate")
    func immediateRegister() throws {
        let instruction = try #require(decode([0xC4, 0xE3, 0x69, 0x4A, 0xCB, 0x40]))
        #expect(instruction.operands[3] == Operand(kind: .vector, size: 16, register: 4))
    }

    @Test("an unused vvvv must be all ones")
    func unusedVvvv() {
        // vmovups xmm0, xmm1.
        #expect(decode([0xC5, 0xF8, 0x10, 0xC1]) != nil)
        #expect(decode([0xC5, 0xE8, 0x10, 0xC1]) == nil)
    }

    @Test("legacy prefixes and REX do not go with VEX")
    func prefixes() {
        for prefix: UInt8 in [0x66, 0xF2, 0xF3, 0xF0, 0x48] {
            #expect(decode([prefix, 0xC5, 0xF8, 0x58, 0xC1]) == nil)
        }
    }

    @Test("andn rax, rcx, [rdx]")
    func generalRegisters() throws {
        let instruction = try #require(decode([0xC4, 0xE2, 0xF0, 0xF2, 0x02]))
        #expect(instruction.mnemonic == .andn)
        #expect(instruction.operandSize == 8)
        #expect(instruction.operands[1] == Operand(kind: .general, size: 8, register: 1))
        #expect(instruction.operands[2] == Operand(kind: .memory, size: 8))
    }

    @Test("AVX2 gathers need three different registers")
    func gather() throws {
        // vpgatherdd xmm0, [rax + xmm1 * 4], xmm2.
        let instruction = try #require(decode([0xC4, 0xE2, 0x69, 0x90, 0x04, 0x88]))
        #expect(instruction.memory.hasVectorIndex)
        #expect(instruction.memory.index == 1)
        #expect(decode([0xC4, 0xE2, 0x69, 0x90, 0x04, 0x90]) == nil)
        #expect(decode([0xC4, 0xE2, 0x79, 0x90, 0x04, 0x88]) == nil)
    }

    @Test("EVEX scales byte displacements by what is accessed")
    func compressedDisplacement() throws {
        // vaddps zmm0, zmm0, [rax + 64] and its broadcast form with [rax + 4].
        let whole = try #require(decode([0x62, 0xF1, 0x7C, 0x48, 0x58, 0x40, 0x01]))
        #expect(whole.memory.displacement == 64)
        #expect(whole.operands[2] == Operand(kind: .memory, size: 64))
        let element = try #require(decode([0x62, 0xF1, 0x7C, 0x58, 0x58, 0x40, 0x01]))
        #expect(element.memory.displacement == 4)
        #expect(element.operands[2] == Operand(kind: .memory, size: 4))
        #expect(element.hasEVEXb)
    }

    @Test("EVEX reaches 32 vectors and names masks")
    func highRegistersAndMasks() throws {
        // vaddps zmm31{k2}{z}, zmm30, zmm29.
        let instruction = try #require(decode([0x62, 0x01, 0x0C, 0xC2, 0x58, 0xFD]))
        #expect(instruction.operands[0].register == 31)
        #expect(instruction.operands[1].register == 30)
        #expect(instruction.operands[2].register == 29)
        #expect(instruction.maskRegister == 2)
        #expect(instruction.isZeroing)
    }

    @Test("zeroing needs a mask and a register")
    func zeroing() {
        // vmovups zmm0{z}, zmm1 without a mask, and with one to memory.
        #expect(decode([0x62, 0xF1, 0x7C, 0xC8, 0x10, 0xC1]) == nil)
        #expect(decode([0x62, 0xF1, 0x7C, 0xC9, 0x11, 0x00]) == nil)
        #expect(decode([0x62, 0xF1, 0x7C, 0x49, 0x11, 0x00]) != nil)
    }

    @Test("a rounding mode stands for 512 bits")
    func rounding() throws {
        let instruction = try #require(decode([0x62, 0xF1, 0x7C, 0x18, 0x58, 0xC1]))
        #expect(instruction.vectorLength == 64)
        // Length 3 is reserved without one.
        #expect(decode([0x62, 0xF1, 0x7C, 0x68, 0x58, 0xC1]) == nil)
        #expect(decode([0x62, 0xF1, 0x7C, 0x78, 0x58, 0xC1])?.vectorLength == 64)
    }

    @Test("XOP and 3DNow! are measured")
    func measured() throws {
        #expect(decode([0x8F, 0xE8, 0x78, 0xC0, 0xC1, 0x05])?.length == 6)
        #expect(decode([0x8F, 0xEA, 0x78, 0x10, 0xC1, 1, 2, 3, 4])?.length == 9)
        #expect(decode([0x0F, 0x0F, 0x40, 0x01, 0x9E])?.length == 5)
    }
}
