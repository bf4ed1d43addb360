/// Where an XSAVE image holds the state components beyond SSE's: AVX's, and later ones for which
/// this CPU has no instructions (SDM volume 1, section 13.4). The layout is the host processor's,
/// because another provider's guests have those too.
struct ExtendedStateLayout: Sendable {
    /// One component in the image's standard form.
    struct Component: Sendable {
        var offset = 0
        var size = 0
        /// In the compacted form, whether it begins at a multiple of 64 bytes.
        var isAligned = false
    }

    /// The numbers of x87's and SSE's components, as bits of XCR0.
    static let x87: UInt64 = 1 << 0
    static let sse: UInt64 = 1 << 1
    static let avx: UInt64 = 1 << 2
    /// The number of AVX's: the upper halves of YMM registers.
    static let upperHalves = 2
    /// Opmask registers and the two parts of AVX-512's.
    static let avx512: UInt64 = 7 << 5
    /// Components that come together: also bounds, and tiles with their configuration.
    static let inseparable: [UInt64] = [avx512, 3 << 3, 3 << 17]
    /// The legacy region and the header, which every image has.
    static let headerEnd = 576

    static let host = ExtendedStateLayout()

    /// By number; those that the processor lacks have no size.
    private var components = InlineArray<63, Component>(repeating: Component())

    /// Asks the processor that we run on (SDM volume 2, CPUID leaf 0Dh).
    private init() {
        guard Self.hasXSAVE else { return }
        let leaf = Self.cpuid(0xD, 0)
        let all = UInt64(leaf.edx) << 32 | UInt64(leaf.eax)
        for number in 2..<63 where all >> UInt64(number) & 1 != 0 {
            let part = Self.cpuid(0xD, UInt32(number))
            components[number] = Component(
                offset: Int(part.ebx), size: Int(part.eax), isAligned: part.ecx & 2 != 0)
        }
    }

    private static var hasXSAVE: Bool { cpuid(1, 0).ecx >> 26 & 1 != 0 }

    private static func cpuid(_ leaf: UInt32, _ subleaf: UInt32) -> CPUIDLeaf {
        HostFeatures.cpuid(leaf, subleaf)
    }

    subscript(number: Int) -> Component { components[number] }

    /// The components that lie inside an image of `size` bytes in the standard form.
    func components(within size: Int) -> UInt64 {
        var mask: UInt64 = 0
        for number in 2..<63 {
            let component = components[number]
            if component.size > 0, component.offset >= Self.headerEnd,
                component.offset <= size - component.size
            {
                mask |= 1 << UInt64(number)
            }
        }
        return mask
    }

    /// Where a component begins in an image whose XCOMP_BV is `compaction`; 0 stands for the
    /// standard form.
    func offset(of number: Int, compaction: UInt64) -> Int {
        if compaction == 0 { return components[number].offset }
        var offset = Self.headerEnd
        for other in 2...number where compaction >> UInt64(other) & 1 != 0 || other == number {
            if components[other].isAligned { offset = (offset + 63) & ~63 }
            if other == number { break }
            offset += components[other].size
        }
        return offset
    }
}
