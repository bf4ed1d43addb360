internal import TCGDecoder

/// The processor that guests see. CPUID reports it and the interpreter obeys it: an instruction
/// that is not advertised raises #UD.
enum CPUModel {
    /// x86-64-v2 and what a kernel likes to have beside it.
    static func supports(_ feature: Feature) -> Bool {
        switch feature {
        case .base, .cmov, .cmpxchg8b, .cmpxchg16b, .fpu, .mmx, .fxsr, .clflush, .sse, .sse2,
            .sse3, .fisttp, .ssse3, .sse4_1, .sse4_2, .popcnt, .fsgsbase, .rdtscp, .invpcid,
            .smap:
            true
        default: false
        }
    }
}
