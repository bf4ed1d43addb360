/// What a stub gets and gives besides its two operands. Stubs know the offsets.
struct LeafFrame {
    static let defaultMXCSR: UInt32 = 0x1F80
    static let operandOffset = 80
    static let resultOffset = 96

    /// +0: loaded before an instruction that uses MXCSR, all exceptions masked, no flags.
    var mxcsrIn: UInt32 = defaultMXCSR
    /// +4: MXCSR after it.
    var mxcsrOut: UInt32 = 0
    /// +8: what the host's code expects.
    var hostMXCSR: UInt32 = defaultMXCSR
    var unused: UInt32 = 0
    /// +16: RFLAGS after the instruction.
    var flagsOut: UInt64 = 0
    /// +24, +32: RAX and RDX for PCMPESTRx.
    var rax: UInt64 = 0
    var rdx: UInt64 = 0
    /// +40: RCX after PCMPxSTRI.
    var rcxOut: UInt64 = 0
    /// +48: XMM0 after PCMPxSTRM.
    var xmm0Out: (UInt64, UInt64) = (0, 0)
    /// +64: flags for FCMOVcc.
    var flagsIn: UInt64 = 0
    /// +80 (`operandOffset`): a copy of a memory or general source, up to 16 bytes, aligned as some
    /// instructions want it.
    var operand = SIMD2<UInt64>()
    /// +96 (`resultOffset`): the destination while it must not be committed yet.
    var result = SIMD2<UInt64>()
}
