import TCGDecoder

@testable import TCG

enum SequenceKind: String, CaseIterable, Sendable {
    case integer
    case vector
    case x87
    /// Instructions with VEX, among them SSE's and others.
    case avx
    /// PUSHes and POPs, at a page's end now and then.
    case stack
    /// Several accesses by way of the same registers, which change in between, RSP among them.
    case pointers
    /// The same with branches in between.
    case branches
    /// All kinds of instructions with all kinds of branches, loops among them, and now and then a
    /// store into code that is still to come.
    case flow
    /// The same at another address each time.
    case moved

    /// How often a sequence runs. It is translated before the last time, when it is known which
    /// blocks follow each other; with `hasPlaces`, at any time.
    var runs: Int {
        switch self {
        case .branches: 6
        case .flow, .moved: 8
        default: 1
        }
    }

    /// Sequences that may lie across two pages, run in slices, and see new generations of code.
    var hasPlaces: Bool { self == .flow || self == .moved }
}

/// Draws sequences of instructions that leave RBX, RBP, RSI and RDI alone, through which they
/// access memory.
struct SequenceGenerator {
    private let kind: SequenceKind
    var generator: InstructionGenerator
    /// Flags that the last instruction left undefined.
    var undefined: UInt64 = 0
    /// A register that counts a loop's turns, so that nothing else writes it.
    var counter: UInt8?

    static let pointers: Set<UInt8> = [3, 5, 6, 7]

    init(seed: UInt64, kind: SequenceKind) {
        self.kind = kind
        generator = InstructionGenerator(seed: seed &* 31)
    }

    mutating func next() -> (bytes: [UInt8], undefined: UInt64) {
        undefined = 0
        if kind == .stack { return (stackRuns(), 0) }
        if kind == .pointers { return (accesses(3 + generator.random.next() % 14), 0) }
        if kind == .branches { return (branches(), 0) }
        if kind.hasPlaces { return (flow(), 0) }
        var bytes: [UInt8] = []
        for _ in 0..<(2 + generator.random.next() % 10) {
            let isOwn = kind != .integer && generator.random.next() & 3 != 0
            let wanted = kind == .avx ? mixed() : !isOwn ? .integer : kind == .x87 ? .x87 : .vector
            bytes += instruction(wanted)
        }
        return (bytes, undefined)
    }

    /// One that leaves the pointers alone.
    mutating func instruction(_ wanted: InstructionClass) -> [UInt8] {
        while true {
            let (instruction, code) = generator.next(wanted)
            guard isSuitable(instruction) else { continue }
            let own = undefinedFlags(after: instruction)
            undefined = instruction.definesFlags ? own : undefined | own
            return code
        }
    }

    mutating func mixed() -> InstructionClass {
        switch generator.random.next() & 15 {
        case 0...8: .avx
        case 9: .x87
        case 10: .integer
        case 11...13: .bits
        default: .vector
        }
    }

    private mutating func stackRuns() -> [UInt8] {
        var bytes: [UInt8] = []
        for _ in 0..<(1 + generator.random.next() % 4) {
            let word = generator.random.next()
            // Now and then flags that must survive.
            if word & 3 == 0 { bytes += [0x4D, 0x01, 0xC0] }  // add r8, r8
            let opcode: UInt8 = word & 16 == 0 ? 0x50 : 0x58
            for _ in 0..<(1 + (word >> 8) % 17) {
                let register = UInt8(truncatingIfNeeded: generator.random.next()) & 15
                if register >= 8 { bytes.append(0x41) }
                // POP RSP would lose the stack.
                let isKept = opcode == 0x50 || register != 4
                bytes.append(opcode | (isKept ? register & 7 : 0))
            }
        }
        return bytes
    }

    /// Pieces without branches; a branch at the end of one leads to the end of the next.
    private mutating func branches() -> [UInt8] {
        let count = 3 + Int(generator.random.next() % 8)
        let pieces = (0..<count).map { _ in accesses(generator.random.next() % 5) }
        var bytes: [UInt8] = []
        for (number, piece) in pieces.enumerated() {
            bytes += piece
            guard number + 1 < count else { break }
            let word = generator.random.next()
            let distance = UInt8(pieces[number + 1].count)
            switch word & 7 {
            case 0..<5: bytes += [0x70 | UInt8(word >> 8 & 15), distance]
            case 5: bytes += [0xEB, word & 256 == 0 ? distance : 0]
            case 6: bytes += [0xE8, word & 256 == 0 ? distance : 0, 0, 0, 0]
            default: break
            }
        }
        return bytes
    }

    mutating func accesses(_ count: UInt64) -> [UInt8] {
        var bytes: [UInt8] = []
        for _ in 0..<count {
            let word = generator.random.next()
            let base = Self.bases[Int(word % UInt64(Self.bases.count))]
            let other = Self.bases[Int((word >> 8) % UInt64(Self.bases.count))]
            let register = freeRegister(word >> 16)
            let distance = UInt8(truncatingIfNeeded: word >> 24)
            switch (word >> 32) % 25 {
            // Arithmetic with all flags defined, and moves.
            case 0..<5: bytes += memory([0x8B], register, base, distance)
            case 5..<9: bytes += memory([0x89], register, base, distance)
            case 9: bytes += memory([0x03], register, base, distance)
            case 10: bytes += memory([0x01], register, base, distance)
            case 11: bytes += memory([0x3B], register, base, distance)
            case 12: bytes += memory([0x0F, 0xB6], register, base, distance)
            case 13:
                bytes += memory([0x0F, 0xAF], register, base, distance)
                bytes += [0x4D, 0x01, 0xC0]  // add r8, r8
            case 14: bytes += memory([0x0F, 0x10], register & 7, base, distance)
            case 15: bytes += memory([0x0F, 0x11], register & 7, base, distance)
            case 16: bytes += memory([0x0F, 0x44], register, base, distance)
            // The registers change.
            case 17: bytes += [0x48, 0x83, 0xC0 | base, distance]  // add
            case 18: bytes += [0x48, 0x83, 0xE8 | base, distance]  // sub
            case 19: bytes += memory([0x8D], base, base, distance)
            case 20: bytes += [0x48, 0x89, 0xC0 | other << 3 | base]  // mov
            case 21: bytes += [0x48, 0x87, 0xC0 | other << 3 | base]  // xchg
            case 22: bytes += [0x50 | base, 0x58 | other]  // push, pop
            case 23: bytes += memory([0xFF], 6, base, distance)  // push
            default: bytes += register < 8 ? [0x50 | register] : [0x41, 0x58 | register & 7]
            }
        }
        return bytes
    }

    static let bases: [UInt8] = [3, 4, 5, 6, 7]
    private static let free: [UInt8] = [0, 1, 2, 8, 9, 10, 11, 12, 13, 14, 15]

    /// A register that may be written.
    func freeRegister(_ word: UInt64) -> UInt8 {
        let register = Self.free[Int(word % UInt64(Self.free.count))]
        return register == counter ? 8 : register
    }

    /// `opcode register, [base + distance]`, of 64 bits.
    func memory(
        _ opcode: [UInt8], _ register: UInt8, _ base: UInt8, _ distance: UInt8
    ) -> [UInt8] {
        let start: [UInt8] = [0x48 | (register & 8) >> 1] + opcode
        return start + [0x40 | (register & 7) << 3 | base] + (base == 4 ? [0x24] : []) + [distance]
    }

    private func isSuitable(_ instruction: Instruction) -> Bool {
        if InstructionGenerator.branches.contains(instruction.mnemonic) { return false }
        if instruction.isMaskedStore { return false }
        switch instruction.mnemonic {
        // They change RSI, RDI or RSP, or are left to the single instructions.
        case .movs, .cmps, .stos, .lods, .scas, .leave, .xlat, .div, .idiv, .ldmxcsr,
            .std:
            return false
        // VLDMXCSR.
        case .vex where instruction.map == 1 && instruction.opcode == 0xAE: return false
        case .cmovcc, .setcc, .adc, .sbb, .rcl, .rcr, .lahf, .cmc:
            if undefined != 0 { return false }
        default: if instruction.mnemonic.readsFlagsForX87, undefined != 0 { return false }
        }
        if hasUndefinedResult(instruction) { return false }
        var hasMemory = false
        for index in 0..<Int(instruction.operandCount) {
            let operand = instruction.operands[index]
            if operand.kind == .memory { hasMemory = true }
            // What is only read is refused too: RSP is not the same where flags are pushed.
            let isGeneral = operand.kind == .general || operand.kind == .generalHigh
            if isGeneral,
                Self.pointers.contains(operand.register) || operand.register == 4
                    || operand.register == counter
            {
                return false
            }
        }
        guard hasMemory, instruction.mnemonic != .lea else { return true }
        let memory = instruction.memory
        let isBitString =
            [.bt, .bts, .btr, .btc].contains(instruction.mnemonic)
            && instruction.operands[1].kind == .general
        return instruction.addressSize == 8 && Self.pointers.contains(memory.base)
            && memory.index == MemoryOperand.noRegister && abs(memory.displacement) < 256
            && !isBitString
    }
}

extension Instruction {
    /// All arithmetic flags have values of its own behind it, or are undefined.
    fileprivate var definesFlags: Bool {
        switch mnemonic {
        case .add, .or, .adc, .sbb, .and, .sub, .xor, .cmp, .test, .neg, .mul, .imul, .popcnt,
            .cmpxchg, .xadd, .comiss, .comisd, .ucomiss, .ucomisd, .ptest:
            true
        default: false
        }
    }
}
