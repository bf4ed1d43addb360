import CNativeRun
import TCGDecoder

@testable import TCG

/// Where the operands of an instruction are.
extension DifferentialRun {
    func set(_ register: UInt8, _ value: UInt64) {
        unsafe StateComparison.set(register, value, native, guest.cpu)
    }

    /// An address in the data pages, now and then one that reaches past them.
    func target() -> UInt64 {
        let word = random.next()
        let size = UserModeGuest.dataSize
        if word & 31 == 0 { return UserModeGuest.dataBase + size - word >> 32 & 31 }
        let offset = 512 + (word >> 8) % (size - 1024)
        return UserModeGuest.dataBase + (word & 0x80 == 0 ? offset & ~15 : offset)
    }

    /// Points the registers that the instruction uses as addresses at the data pages.
    func placeOperands(_ instruction: Instruction) -> Bool {
        set(4, target() & ~7)
        switch instruction.mnemonic {
        case _ where instruction.isMaskedStore:
            // Whether bytes that are not selected may fault is the processor's choice.
            set(7, UserModeGuest.dataBase + 512 + random.next() & 0x3FF)
            return instruction.addressSize == 8
        case .movs, .cmps, .stos, .lods, .scas:
            set(6, target())
            set(7, target())
            if instruction.prefixes.contains(.rep) || instruction.prefixes.contains(.repne) {
                set(1, random.next() & 31)
            }
            let flags = random.next() & RFLAGS.df
            unsafe native.pointee.rflags |= flags
            unsafe guest.cpu.state.pointee.systemFlags |= flags
            return instruction.addressSize == 8
        case .xlat:
            set(3, target() - 128)
            return instruction.addressSize == 8
        case .leave: set(5, target() & ~7)
        case .bt, .bts, .btr, .btc: limitBitOffset(instruction)
        case .ret:
            let place = guest.cpu[4] - UserModeGuest.dataBase
            guard place + 8 <= UserModeGuest.dataSize else { break }
            let address = UserModeGuest.codeBase + 64 + random.next() & 0x3FF
            unsafe nativeData.storeBytes(
                of: address, toByteOffset: Int(place), as: UInt64.self)
            unsafe guest.data.storeBytes(
                of: address, toByteOffset: Int(place), as: UInt64.self)
        default: break
        }
        return placeMemoryOperand(instruction)
    }

    private func limitBitOffset(_ instruction: Instruction) {
        let source = instruction.operands[1]
        guard source.kind == .general else { return }
        let offset = UInt64(bitPattern: Int64(random.next() & 0xFFF) - 0x800)
        set(source.register, offset)
    }

    private func placeMemoryOperand(_ instruction: Instruction) -> Bool {
        let memory = instruction.memory
        var hasMemory = false
        for index in 0..<Int(instruction.operandCount)
        where instruction.operands[index].kind == .memory { hasMemory = true }
        guard hasMemory, instruction.mnemonic != .lea else { return true }
        // moffs and absolute addresses cannot be placed.
        guard memory.base < 16, memory.base != memory.index, instruction.addressSize == 8
        else { return memory.base == MemoryOperand.instructionPointer }
        if instruction.mnemonic == .push || instruction.mnemonic == .pop, memory.base == 4 {
            return true
        }
        var rest = UInt64(bitPattern: memory.displacement)
        if memory.index < 16 {
            if memory.hasVectorIndex {
                placeIndices(instruction)
                set(memory.base, target() &- rest)
                return true
            }
            if memory.index != 4 { set(memory.index, random.next() & 0xFF) }
            rest = rest &+ guest.cpu[memory.index] &* UInt64(memory.scale)
        }
        set(memory.base, target() &- rest)
        return true
    }

    /// A gather's indices: small numbers, now and then one that leads out of the data pages.
    private func placeIndices(_ instruction: Instruction) {
        let isWide = instruction.opcode & 1 != 0
        let number = instruction.memory.index
        var words = SIMD4<UInt64>()
        func index(_ word: UInt64) -> UInt64 {
            word & 63 == 0 ? word >> 40 & 0x7FFF : word >> 20 & 0x3F
        }
        for place in 0..<4 {
            let word = random.next()
            words[place] = isWide ? index(word) : index(word) | index(word << 3) << 32
        }
        guest.cpu.setYMM(number, words)
        unsafe withUnsafeMutableBytes(of: &native.pointee.fx) { image in
            for word in 0..<2 {
                unsafe image.storeBytes(
                    of: words[word], toByteOffset: 160 + Int(number) * 16 + 8 * word,
                    as: UInt64.self)
            }
        }
        unsafe withUnsafeMutableBytes(of: &native.pointee.upper) { upper in
            for word in 0..<2 {
                unsafe upper.storeBytes(
                    of: words[2 + word], toByteOffset: Int(number) * 16 + 8 * word,
                    as: UInt64.self)
            }
        }
    }
}

extension Instruction {
    /// One of a map's instructions that have no name of their own.
    func isVEX(_ map: UInt8, _ opcodes: ClosedRange<UInt8>) -> Bool {
        encoding == .vex && self.map == map && opcodes.contains(opcode)
    }

    /// To [RDI].
    var isMaskedStore: Bool {
        mnemonic == .maskmovq || mnemonic == .maskmovdqu || isVEX(1, 0xF7...0xF7)
    }
}
