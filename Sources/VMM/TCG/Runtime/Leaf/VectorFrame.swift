/// What a stub of an instruction with VEX gets and gives. Stubs know the offsets.
struct VectorFrame {
    typealias YMM = SIMD4<UInt64>

    /// +0: loaded before an instruction that uses MXCSR, all exceptions masked, no flags.
    var mxcsrIn: UInt32 = LeafFrame.defaultMXCSR
    /// +4: MXCSR after it.
    var mxcsrOut: UInt32 = 0
    /// +8: what the host's code expects.
    var hostMXCSR: UInt32 = LeafFrame.defaultMXCSR
    var unused: UInt32 = 0
    /// +16: RFLAGS after the instruction.
    var flagsOut: UInt64 = 0
    /// +24: RAX, which is the general operand.
    var rax: UInt64 = 0
    /// +32, +40: RDX before it, and RCX after it.
    var rdx: UInt64 = 0
    var rcxOut: UInt64 = 0
    var padding: (UInt64, UInt64) = (0, 0)
    /// +64, +96, +128: what ModRM.reg, VEX.vvvv and ModRM.rm name; a memory operand is in the last.
    var reg = YMM()
    var vvvv = YMM()
    var rm = YMM()
    /// +160: the fourth register; the guest's first one after it.
    var fourth = YMM()
}
