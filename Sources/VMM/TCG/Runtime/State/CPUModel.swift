internal import TCGDecoder

/// The processor that guests see. CPUID reports it and the interpreter obeys it: an instruction
/// that is not advertised raises #UD.
///
/// Vector instructions and the like are executed by the host's, so that a model has none that the
/// host has not.
public struct CPUModel: Sendable, Equatable {
    /// Names of models, as QEMU has them.
    public enum Name: String, Sendable, CaseIterable {
        /// The same everywhere: SSE4.2 and POPCNT are the last of its extensions.
        case level2 = "x86-64-v2"
        /// With AVX2, FMA, F16C, BMI, MOVBE and LZCNT.
        case level3 = "x86-64-v3"
        /// All that works on this host.
        case max
    }

    private var features: FeatureSet

    /// x86-64-v2 and what a kernel likes to have beside it.
    private static let common: [Feature] = [
        .base, .cmov, .cmpxchg8b, .cmpxchg16b, .fpu, .mmx, .fxsr, .clflush, .sse, .sse2, .sse3,
        .fisttp, .ssse3, .sse4_1, .sse4_2, .popcnt, .fsgsbase, .rdtscp, .invpcid, .smap,
    ]

    public static let level2 = CPUModel(common)
    static let level3 = CPUModel(common, OptionalFeature.level3)
    static let max = CPUModel(common, OptionalFeature.all.filter(HostFeatures.shared.contains))

    private init(_ features: [Feature], _ optional: [OptionalFeature] = []) {
        self.features = FeatureSet(features + optional.map(\.feature))
        // They need nothing of the host's.
        if supports(.xsave) { self.features.formUnion(FeatureSet([.xsaveopt, .xsavec])) }
    }

    init(_ name: Name) {
        self =
            switch name {
            case .level2: .level2
            case .level3: .level3
            case .max: .max
            }
    }

    func supports(_ feature: Feature) -> Bool { features.contains(feature) }

    /// XSAVE and YMM registers.
    var hasAVX: Bool { supports(.avx) }

    /// Whether an instruction exists, apart from the processor's mode.
    func supports(_ instruction: Instruction) -> Bool {
        guard instruction.encoding == .vex else {
            return instruction.encoding == .legacy && supports(instruction.feature)
        }
        switch instruction.feature {
        case .aes: return hasAVX && supports(.aes)
        // With 16 bytes they are AVX's forms of what SSE has.
        case .vaes where instruction.vectorLength == 16: return hasAVX && supports(.aes)
        case .vpclmulqdq where instruction.vectorLength == 16:
            return hasAVX && supports(.pclmulqdq)
        default: return supports(instruction.feature)
        }
    }

    /// The optional features that CPUID shows in a word.
    func bits(_ word: OptionalFeature.Word) -> UInt32 {
        OptionalFeature.all.reduce(0) {
            $1.word == word && supports($1.feature) ? $0 | 1 << $1.bit : $0
        }
    }

    /// What the host has not of a model, by name; empty if guests can have it.
    static func missing(_ name: Name) -> [String] {
        guard name == .level3 else { return [] }
        return OptionalFeature.level3.filter { !HostFeatures.shared.contains($0) }.map(\.name)
    }
}

/// A set of features.
struct FeatureSet: Sendable, Equatable {
    private var low: UInt64 = 0
    private var high: UInt64 = 0

    init(_ features: [Feature]) {
        for feature in features {
            let bit: UInt64 = 1 << UInt64(feature.rawValue & 63)
            if feature.rawValue < 64 { low |= bit } else { high |= bit }
        }
    }

    func contains(_ feature: Feature) -> Bool {
        let word = feature.rawValue < 64 ? low : high
        return word >> UInt64(feature.rawValue & 63) & 1 != 0
    }

    mutating func formUnion(_ other: FeatureSet) {
        low |= other.low
        high |= other.high
    }
}
