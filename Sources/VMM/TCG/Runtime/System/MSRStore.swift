/// Model-specific registers that nothing looks at while code runs.
struct MSRStore {
    /// Memory types: IA32_MTRR_PHYSBASE0, PHYSMASK0 and so on; the fixed ranges; the default.
    var variableRanges = InlineArray<16, UInt64>(repeating: 0)
    var fixedRanges = InlineArray<11, UInt64>(repeating: 0)
    var defaultType: UInt64 = 0
    var debugControl: UInt64 = 0
    /// Intel's IA32_MISC_ENABLE: fast strings; no branch traces, no event sampling.
    var miscellaneousEnable: UInt64 = 0x1801
    /// TSC_DEADLINE as written.
    var deadline: UInt64 = 0
    /// KVM's system time: the address, and bit 0 "enabled".
    var clock: UInt64 = 0
    var wallClock: UInt64 = 0
    /// AMD's HWCR: the TSC counts at the P0 frequency.
    var hardwareConfiguration: UInt64 = 1 << 24
    var systemConfiguration: UInt64 = 0
    var decodeConfiguration: UInt64 = 2
    var loadStoreConfiguration: UInt64 = 0
    var northBridge: UInt64 = 0

    /// The fixed-range MSRs in the order of their addresses.
    static let fixedNumbers: [UInt32] = [
        0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F,
    ]

    /// Memory types as firmware leaves them: everything is write-back.
    mutating func setWriteBack() {
        defaultType = 0xC06
        for index in 0..<11 { fixedRanges[index] = 0x0606_0606_0606_0606 }
    }

    /// UC, WC, WT, WP and WB are memory types; the PAT also knows UC- (7).
    static func isMemoryType(_ type: UInt64, inPAT: Bool) -> Bool {
        [0, 1, 4, 5, 6].contains(type) || (inPAT && type == 7)
    }

    /// Whether all eight bytes are memory types.
    static func areMemoryTypes(_ value: UInt64, inPAT: Bool) -> Bool {
        (0..<8).allSatisfy { isMemoryType((value >> (8 * $0)) & 0xFF, inPAT: inPAT) }
    }
}
