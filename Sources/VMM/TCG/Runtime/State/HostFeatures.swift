internal import CLinux
internal import TCGDecoder

/// What the processor that we run on can do, as CPUID tells user mode (SDM volume 2, CPUID).
struct HostFeatures: Sendable {
    static let shared = HostFeatures()

    private let words: InlineArray<4, UInt32>
    /// The kernel saves the upper halves of YMM registers.
    let hasUpperHalves: Bool
    /// Translated code may use RORX.
    let hasBMI2: Bool

    private init() {
        let basic = Self.cpuid(1, 0)
        let last = Self.cpuid(0, 0).eax
        let structured = last >= 7 ? Self.cpuid(7, 0) : CPUIDLeaf()
        let extended = Self.cpuid(0x8000_0001, 0)
        hasBMI2 = structured.ebx >> 8 & 1 != 0
        words = [basic.ecx, structured.ebx, structured.ecx, extended.ecx]
        let usesXSAVE = basic.ecx >> 27 & 1 != 0 && last >= 0xD
        // The size of an image with all that is enabled.
        hasUpperHalves =
            usesXSAVE && Self.cpuid(0xD, 0).ebx >= 832 && Self.cpuid(0xD, 2).ebx == 576
    }

    func contains(_ feature: OptionalFeature) -> Bool {
        if feature.needsAVX && !hasUpperHalves { return false }
        return words[feature.word.rawValue] >> feature.bit & 1 != 0
    }

    static func cpuid(_ leaf: UInt32, _ subleaf: UInt32) -> CPUIDLeaf {
        var words = InlineArray<4, UInt32>(repeating: 0)
        // SAFETY: the array has the four words that are written.
        unsafe withUnsafeMutablePointer(to: &words) {
            unsafe clinux_cpuid(
                leaf, subleaf, UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt32.self))
        }
        return CPUIDLeaf(eax: words[0], ebx: words[1], ecx: words[2], edx: words[3])
    }
}

/// A feature that some models have and others have not, and where CPUID shows it.
struct OptionalFeature: Sendable {
    /// Words of CPUID's answers, by their place in `HostFeatures.words`.
    enum Word: Int, Sendable {
        case leaf1C, leaf7B, leaf7C, extendedC
    }

    let feature: Feature
    let name: String
    let word: Word
    let bit: UInt32

    private init(_ feature: Feature, _ name: String, _ word: Word, _ bit: UInt32) {
        self.feature = feature
        self.name = name
        self.word = word
        self.bit = bit
    }

    /// It works on YMM registers, or is of no use without them.
    var needsAVX: Bool {
        switch feature {
        case .avx, .avx2, .fma, .f16c, .xsave, .vaes, .vpclmulqdq: true
        default: false
        }
    }

    static let level3 = [
        OptionalFeature(.movbe, "MOVBE", .leaf1C, 22),
        OptionalFeature(.lzcnt, "LZCNT", .extendedC, 5),
        OptionalFeature(.bmi1, "BMI1", .leaf7B, 3),
        OptionalFeature(.bmi2, "BMI2", .leaf7B, 8),
        OptionalFeature(.xsave, "XSAVE", .leaf1C, 26),
        OptionalFeature(.avx, "AVX", .leaf1C, 28),
        OptionalFeature(.avx2, "AVX2", .leaf7B, 5),
        OptionalFeature(.fma, "FMA", .leaf1C, 12),
        OptionalFeature(.f16c, "F16C", .leaf1C, 29),
    ]

    static let all =
        level3 + [
            OptionalFeature(.aes, "AES", .leaf1C, 25),
            OptionalFeature(.pclmulqdq, "PCLMULQDQ", .leaf1C, 1),
            OptionalFeature(.vaes, "VAES", .leaf7C, 9),
            OptionalFeature(.vpclmulqdq, "VPCLMULQDQ", .leaf7C, 10),
        ]
}
