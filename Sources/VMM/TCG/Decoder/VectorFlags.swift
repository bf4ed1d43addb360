/// What a VEX or EVEX row demands or allows beyond its operands.
struct VectorFlags: OptionSet, BitwiseCopyable {
    let rawValue: UInt16

    init(rawValue: UInt16) { self.rawValue = rawValue }

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
    /// Register forms may choose the rounding mode.
    static let rounding = VectorFlags(rawValue: 1 << 11)
    /// Register forms may suppress all exceptions.
    static let suppress = VectorFlags(rawValue: 1 << 12)
    /// The memory operand has a vector index.
    static let vectorIndex = VectorFlags(rawValue: 1 << 13)
    /// The destination may be no source (gathers, complex FP16 multiplications).
    static let distinct = VectorFlags(rawValue: 1 << 14)
    /// Exactly one of the broadcast elements' sizes is 4 although W is 1, or 8 although it is 0.
    static let broadcast32 = VectorFlags(rawValue: 1 << 15)
}
