/// A row of the opcode tables.
struct TableEntry: BitwiseCopyable {
    /// Conditions and size rules of legacy instructions.
    struct Flags: OptionSet, BitwiseCopyable {
        let rawValue: UInt16

        init(rawValue: UInt16) { self.rawValue = rawValue }

        /// Byte form: the operand size is one.
        static let byte = Flags(rawValue: 1)
        /// LOCK is allowed if the first operand is memory.
        static let lock = Flags(rawValue: 2)
        /// Byte form and lockable.
        static let byteLock = Flags(rawValue: 3)
        static let invalidIn64 = Flags(rawValue: 4)
        static let only64 = Flags(rawValue: 8)
        /// In 64-bit mode the operand size is 64 bits, or 16 with prefix 66.
        static let default64 = Flags(rawValue: 16)
        /// In 64-bit mode the operand size is 64 bits whatever the prefixes.
        static let force64 = Flags(rawValue: 32)
        /// The operand size is at most 32 bits.
        static let atMost32 = Flags(rawValue: 64)
        /// The prefix 66, F2 or F3 selects the instruction; 66 is no operand size then.
        static let prefixed = Flags(rawValue: 128)
        /// The operand size is 64 bits in 64-bit mode, else 32, whatever the prefixes.
        static let natural = Flags(rawValue: 256)
    }

    var mnemonic: Mnemonic
    var feature: Feature
    var a: OperandSpecification
    var b: OperandSpecification
    var c: OperandSpecification
    var d: OperandSpecification
    var flags: Flags
    var vector: VectorFlags
    var group: OpcodeGroup

    @inline(__always)
    init(
        _ mnemonic: Mnemonic, _ feature: Feature, _ a: OperandSpecification,
        _ b: OperandSpecification, _ c: OperandSpecification, _ d: OperandSpecification,
        _ flags: Flags, _ vector: VectorFlags, _ group: OpcodeGroup
    ) {
        self.mnemonic = mnemonic
        self.feature = feature
        self.a = a
        self.b = b
        self.c = c
        self.d = d
        self.flags = flags
        self.vector = vector
        self.group = group
    }

    /// No such instruction.
    static var undefined: TableEntry {
        @inline(__always) get {
            TableEntry(.invalid, .base, .none, .none, .none, .none, [], [], .none)
        }
    }

    var usesModRM: Bool { a.usesModRM || b.usesModRM }

    /// The same with `Flags.prefixed`.
    var prefixed: TableEntry {
        var entry = self
        entry.flags.insert(.prefixed)
        return entry
    }
}

/// A row of an instruction that every processor has.
@inline(__always)
func row(
    _ mnemonic: Mnemonic, _ a: OperandSpecification = .none, _ b: OperandSpecification = .none,
    _ c: OperandSpecification = .none, flags: TableEntry.Flags = []
) -> TableEntry {
    TableEntry(mnemonic, .base, a, b, c, .none, flags, [], .none)
}

/// A row of an instruction that depends on a CPUID bit.
@inline(__always)
func row(
    _ mnemonic: Mnemonic, _ feature: Feature, _ a: OperandSpecification = .none,
    _ b: OperandSpecification = .none, _ c: OperandSpecification = .none,
    _ d: OperandSpecification = .none, flags: TableEntry.Flags = []
) -> TableEntry {
    TableEntry(mnemonic, feature, a, b, c, d, flags, [], .none)
}

/// A row whose instruction ModRM chooses.
@inline(__always)
func group(_ group: OpcodeGroup) -> TableEntry {
    TableEntry(.invalid, .base, .none, .none, .none, .none, [], [], group)
}
