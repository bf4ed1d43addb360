import CZydis
import TCGDecoder

/// Zydis as the independent decoder that Apus's is compared with.
///
/// Zydis runs with Intel's semantics for near branches (its default) and without MPX and
/// CLDEMOTE, whose encodings are no-operations on the processors that Apus emulates.
@safe
final class ZydisOracle {
    private var decoder = ZydisDecoder()
    private let operands: UnsafeMutablePointer<ZydisDecodedOperand>
    private let mode: CodeMode
    private let decoderUnderTest: Decoder
    /// How many instructions were not compared in full, because of a `KnownDifference`.
    private(set) var exemptions = 0
    /// Apus's name for each of Zydis's mnemonics.
    private let names: [Mnemonic?]

    init(mode: CodeMode) {
        self.mode = mode
        decoderUnderTest = Decoder(mode: mode)
        unsafe operands = .allocate(capacity: Int(ZYDIS_MAX_OPERAND_COUNT))
        let machine =
            switch mode {
            case .bits64: ZYDIS_MACHINE_MODE_LONG_64
            case .bits32: ZYDIS_MACHINE_MODE_LONG_COMPAT_32
            case .bits16: ZYDIS_MACHINE_MODE_LONG_COMPAT_16
            }
        let stack =
            switch mode {
            case .bits64: ZYDIS_STACK_WIDTH_64
            case .bits32: ZYDIS_STACK_WIDTH_32
            case .bits16: ZYDIS_STACK_WIDTH_16
            }
        // SAFETY: the decoder outlives the calls; Zydis only writes to what it is given.
        _ = unsafe ZydisDecoderInit(&decoder, machine, stack)
        _ = unsafe ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MPX, 0)
        _ = unsafe ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CLDEMOTE, 0)
        names = ZydisNames.apusNames()
    }

    deinit { unsafe operands.deallocate() }

    /// How the two decoders' views of `bytes` differ; nil if they agree. `length` becomes Zydis's
    /// length, or 0 if it rejects the bytes.
    func difference(_ bytes: Span<UInt8>, length: inout Int) -> String? {
        let ours = decoderUnderTest.decode(bytes)
        // SAFETY: as in `init`; Zydis reads at most the given count of bytes.
        var instruction = unsafe ZydisDecodedInstruction()
        let status = unsafe bytes.withUnsafeBufferPointer { buffer in
            unsafe ZydisDecoderDecodeFull(
                &decoder, buffer.baseAddress, ZyanUSize(buffer.count), &instruction, operands)
        }
        guard status & 0x8000_0000 == 0 else {
            length = 0
            guard case .instruction(let decoded) = ours else { return nil }
            if isExempt(KnownDifference.onlyApusAccepts(decoded)) { return nil }
            return "Zydis rejects, Apus: \(decoded.mnemonic) length \(decoded.length)"
        }
        length = unsafe Int(instruction.length)
        let isKnown = unsafe KnownDifference.onlyZydisAccepts(instruction)
        guard case .instruction(let decoded) = ours else {
            return isExempt(isKnown) ? nil : unsafe "Zydis: \(name(instruction)), Apus: \(ours)"
        }
        guard unsafe decoded.length == instruction.length else {
            return "length \(length), Apus: \(decoded.length) (\(decoded.mnemonic))"
        }
        if isExempt(isKnown || decoded.encoding == .other) { return nil }
        guard let problem = unsafe compare(decoded, instruction) else { return nil }
        return unsafe "\(name(instruction)): \(problem)"
    }

    private func name(_ instruction: ZydisDecodedInstruction) -> String {
        unsafe ZydisNames.string(ZydisMnemonicGetString(instruction.mnemonic))
    }

    /// Counts the exemption if it is one.
    private func isExempt(_ condition: Bool) -> Bool {
        if condition { exemptions += 1 }
        return condition
    }

    private func expectedName(
        _ theirs: ZydisDecodedInstruction, isOneByte: Bool
    ) -> Mnemonic? {
        let own = unsafe names[Int(theirs.mnemonic.rawValue)]
        let isFar = unsafe theirs.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR
        // Zydis has one name for near and far, and for MOVSD and CMPSD of both kinds.
        switch own {
        case .call where isFar: return .callFar
        case .jmp where isFar: return .jmpFar
        case .ret where isFar: return .retFar
        case .movsd where isOneByte: return .movs
        case .cmpsd where isOneByte: return .cmps
        default: return own
        }
    }

    private func compare(
        _ ours: Instruction, _ theirs: ZydisDecodedInstruction
    ) -> String? {
        if ours.encoding == .legacy || (ours.mnemonic != .vex && ours.mnemonic != .evex) {
            let expected = unsafe expectedName(theirs, isOneByte: ours.map == 0)
            if expected != ours.mnemonic { return "mnemonic \(ours.mnemonic)" }
        }
        if ours.feature == .sgx { return nil }
        let theirAddressSize = unsafe Int(theirs.address_width) / 8
        if Int(ours.addressSize) != theirAddressSize { return "address size \(ours.addressSize)" }
        if ours.encoding == .legacy, KnownDifference.comparesOperandSize(ours) {
            let theirSize = unsafe Int(theirs.operand_width) / 8
            if Int(ours.operandSize) != theirSize {
                return "operand size \(ours.operandSize), Zydis: \(theirSize)"
            }
        }
        if isExempt(!KnownDifference.comparesOperands(ours)) { return nil }
        var index = 0
        for position in unsafe 0..<Int(theirs.operand_count_visible) {
            let operand = unsafe operands[position]
            if operand.encoding == ZYDIS_OPERAND_ENCODING_MASK {
                let mask = Int(operand.reg.value.rawValue - ZYDIS_REGISTER_K0.rawValue)
                if mask != Int(ours.maskRegister) { return "mask register \(ours.maskRegister)" }
                continue
            }
            // Five operands: the immediate is not listed.
            if index == 4 { break }
            if let problem = compare(ours.operands[index], ours, operand) {
                return "operand \(index): \(problem)"
            }
            index += 1
        }
        return index == Int(ours.operandCount) ? nil : "operand count \(ours.operandCount)"
    }

    private func compare(
        _ ours: Operand, _ instruction: Instruction, _ theirs: ZydisDecodedOperand
    ) -> String? {
        let bytes = Int(theirs.size) / 8
        switch theirs.type {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            let expected = ZydisNames.register(theirs.reg.value)
            guard ours.kind == expected.kind, ours.register == expected.register,
                ours.size == expected.size || KnownDifference.hasFixedSize(expected.kind)
            else { return "\(ours), Zydis: \(expected)" }
        case ZYDIS_OPERAND_TYPE_MEMORY:
            guard ours.kind == .memory else { return "\(ours), Zydis: memory" }
            if isExempt(KnownDifference.hasOtherMemorySize(instruction)) { break }
            if ours.size != 0 || bytes <= 255 && !KnownDifference.hasNoSize(instruction) {
                if Int(ours.size) != bytes { return "\(ours), Zydis: memory size \(bytes)" }
            }
            return compare(instruction, theirs.mem)
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            let value = unsafe theirs.imm.value.s
            let kind: OperandKind = theirs.imm.is_relative != 0 ? .relative : .immediate
            let isSecond =
                instruction.operandCount > 1
                && ours
                    == instruction.operands[
                        Int(
                            instruction.operandCount) - 1]
                && KnownDifference.hasSecondImmediate(instruction)
                && value == Int64(instruction.immediate2)
            guard ours.kind == kind, instruction.immediate == value || isSecond,
                Int(ours.size) == bytes
            else { return "\(ours) \(instruction.immediate), Zydis: \(kind) \(bytes) \(value)" }
        default:
            let pointer = theirs.ptr
            guard ours.kind == .farPointer, instruction.immediate == Int64(pointer.offset),
                instruction.immediate2 == pointer.segment, Int(ours.size) == bytes
            else { return "\(ours), Zydis: far pointer size \(bytes)" }
        }
        return nil
    }

    private func compare(_ ours: Instruction, _ theirs: ZydisDecodedOperandMem) -> String? {
        let memory = ours.memory
        var expected = MemoryOperand()
        // No segment matters where memory is not accessed: Zydis ignores the override there.
        let comparesSegment =
            theirs.type != ZYDIS_MEMOP_TYPE_AGEN && !KnownDifference.isNoTrack(ours)
        expected.segment =
            comparesSegment ? ZydisNames.register(theirs.segment).register : memory.segment
        if theirs.base == ZYDIS_REGISTER_RIP || theirs.base == ZYDIS_REGISTER_EIP {
            expected.base = MemoryOperand.instructionPointer
        } else if theirs.base != ZYDIS_REGISTER_NONE {
            expected.base = ZydisNames.register(theirs.base).register
        }
        if theirs.index != ZYDIS_REGISTER_NONE {
            expected.index = ZydisNames.register(theirs.index).register
            expected.scale = theirs.scale
        }
        expected.hasVectorIndex = theirs.type == ZYDIS_MEMOP_TYPE_VSIB
        expected.displacement = theirs.disp.value
        let isWrongBase = KnownDifference.hasWrongBase(
            memory, expected, addressSize: ours.addressSize)
        if isExempt(isWrongBase) { return nil }
        return memory == expected ? nil : "\(memory), Zydis: \(expected)"
    }
}
