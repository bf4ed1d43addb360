/// What a VEX or EVEX row demands or allows beyond its operands.
struct VectorFlags: OptionSet, BitwiseCopyable {
    let rawValue: UInt32

    init(rawValue: UInt32) { self.rawValue = rawValue }

    /// W must be 0 or 1; with neither it is ignored.
    static let w0 = VectorFlags(rawValue: 1 << 0)
    static let w1 = VectorFlags(rawValue: 1 << 1)
    /// The vector lengths allowed; with none of the three every length is.
    static let l128 = VectorFlags(rawValue: 1 << 2)
    static let l256 = VectorFlags(rawValue: 1 << 3)
    static let l512 = VectorFlags(rawValue: 1 << 4)
    /// The vector length is ignored (scalar instructions).
    static let lig = VectorFlags(rawValue: 1 << 5)
    /// EVEX.aaa may name a mask.
    static let mask = VectorFlags(rawValue: 1 << 6)
    /// EVEX.z may be set.
    static let zero = VectorFlags(rawValue: 1 << 7)
    /// EVEX.aaa must name a mask (gathers and scatters).
    static let needsMask = VectorFlags(rawValue: 1 << 8)
    /// Memory may be one element that is broadcast: 8 bytes with W, else 4.
    static let broadcast = VectorFlags(rawValue: 1 << 9)
    /// The same with elements of two bytes.
    static let broadcast16 = VectorFlags(rawValue: 1 << 10)
    /// Register forms may choose the rounding mode, or only suppress all exceptions.
    static let rounding = VectorFlags(rawValue: 1 << 11)
    static let suppress = VectorFlags(rawValue: 1 << 12)
    /// The memory operand has a vector index.
    static let vectorIndex = VectorFlags(rawValue: 1 << 13)
    /// The destination may be no source (gathers, complex FP16 multiplications).
    static let distinct = VectorFlags(rawValue: 1 << 14)
    /// AVX2 if the vectors have 32 bytes.
    static let integer = VectorFlags(rawValue: 1 << 15)
    /// A byte displacement counts elements of W's size, or of one or two bytes.
    static let element = VectorFlags(rawValue: 1 << 16)
    static let smallElement = VectorFlags(rawValue: 1 << 17)

    /// Undefined outside 64-bit mode.
    static let only64 = VectorFlags(rawValue: 1 << 18)

    // What many rows share.
    static let l256up: VectorFlags = [.l256, .l512]
    static let mz: VectorFlags = [.mask, .zero]
    static let mzb: VectorFlags = [.mask, .zero, .broadcast]
    static let mb: VectorFlags = [.mask, .broadcast]
    static let er: VectorFlags = [.mask, .zero, .broadcast, .rounding]
    static let sae: VectorFlags = [.mask, .zero, .broadcast, .suppress]
    static let er16: VectorFlags = [.mask, .zero, .broadcast16, .rounding]
    static let sae16: VectorFlags = [.mask, .zero, .broadcast16, .suppress]
    static let mzb16: VectorFlags = [.mask, .zero, .broadcast16]
    static let scalar: VectorFlags = [.lig, .mask, .zero]
    static let scalarER: VectorFlags = [.lig, .mask, .zero, .rounding]
    static let scalarSAE: VectorFlags = [.lig, .mask, .zero, .suppress]
}

/// A VEX row; W and the vector length are ignored unless `flags` say otherwise.
@inline(__always)
func vex(
    _ feature: Feature, _ flags: VectorFlags, _ a: OperandSpecification = .none,
    _ b: OperandSpecification = .none, _ c: OperandSpecification = .none,
    _ d: OperandSpecification = .none
) -> TableEntry {
    TableEntry(.vex, feature, a, b, c, d, [], flags, .none)
}

/// A VEX row of an instruction on general registers.
@inline(__always)
func vex(
    _ mnemonic: Mnemonic, _ feature: Feature, _ a: OperandSpecification,
    _ b: OperandSpecification, _ c: OperandSpecification = .none
) -> TableEntry {
    TableEntry(mnemonic, feature, a, b, c, .none, [], .l128, .none)
}

/// An EVEX row.
@inline(__always)
func evex(
    _ flags: VectorFlags, _ a: OperandSpecification, _ b: OperandSpecification = .none,
    _ c: OperandSpecification = .none, _ d: OperandSpecification = .none
) -> TableEntry {
    TableEntry(.evex, .avx512, a, b, c, d, [], flags, .none)
}

/// A row of several opcodes that differ by nothing but W and 66: single precision without,
/// double precision with both.
@inline(__always)
func evex(
    packed context: EntryContext, _ flags: VectorFlags, _ a: OperandSpecification,
    _ b: OperandSpecification = .none, _ c: OperandSpecification = .none,
    _ d: OperandSpecification = .none
) -> TableEntry {
    evex(flags.union(context.prefix == 1 ? .w1 : .w0), a, b, c, d)
}
