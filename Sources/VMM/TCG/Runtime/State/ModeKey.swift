/// The bits of `VCPUState.modeKey`: everything about the CPU's mode that decoded code may depend
/// on.
enum ModeKey {
    /// CodeMode's raw value: 2, 4 or 8.
    static let codeSize: UInt32 = 0xF
    /// SS.B, always set in 64-bit code.
    static let bigStack: UInt32 = 1 << 4
    /// CPL is 3.
    static let user: UInt32 = 1 << 5
    /// Protected mode without VM86; clear in real mode and VM86.
    static let protected: UInt32 = 1 << 6
    /// All of CS, SS, DS and ES have base 0 and no limit below 4 GiB, and can be written where
    /// they are data: no segment checks are needed. Always set in 64-bit code.
    static let flat: UInt32 = 1 << 7
    /// TF, or an instruction breakpoint is armed: one instruction at a time.
    static let singleStep: UInt32 = 1 << 8
    /// CR0.EM or CR0.TS or, for SSE, CR4.OSFXSR makes vector and x87 instructions fault.
    static let noFPU: UInt32 = 1 << 9
    /// CR0.TS, CR4.OSXSAVE or XCR0 makes AVX instructions fault.
    static let noAVX: UInt32 = 1 << 10
    /// The `TLBMode` in force, which STAC and CLAC change in the middle of a block.
    static let accessMode: UInt32 = 3 << accessModeShift
    static let accessModeShift: UInt32 = 11
    /// CR4.SMAP, by which one knows what CLAC leads to.
    static let smap: UInt32 = 1 << 13
}
