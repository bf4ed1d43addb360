/// Two-operand arithmetic, in the order of the opcodes.
enum ALUOperation: UInt8 {
    case add, or, adc, sbb, and, sub, xor, cmp, test
}

enum UnaryOperation: UInt8 {
    case inc, dec, not, neg
}

/// In the order of ModRM.reg in the shift group.
enum ShiftOperation: UInt8 {
    case rol, ror, rcl, rcr, shl, shr, sal, sar
}

/// Condition codes (SDM volume 2, appendix B.1.4.7).
enum Condition: UInt8 {
    case o, no, b, ae, e, ne, be, a, s, ns, p, np, l, ge, le, g
}

/// What `OperationCode.general` does: an instruction after which the block goes on.
enum GeneralOperation: UInt8 {
    // Arithmetic with any operands.
    case shift, shld, shrd, imul1, imul2, mul, div, idiv, bt, bts, btr, btc, bsf, bsr, popcnt,
        tzcnt, lzcnt, movbe, crc32, cmpxchg, cmpxchg8b, cmpxchg16b, xadd, alu, unary
    // Decimal arithmetic.
    case aaa, aad, aam, aas, daa, das
    // Moves.
    case xchg, cmov, setcc, movzx, movsx, cbw, cwd, bswap16, xlat, movFromSegment
    // The stack.
    case push, pushSegment, pop, pusha, popa, pushf, enter, leave
    // Flags.
    case clc, stc, cmc, cld, std, lahf, sahf, salc, cli, stac, clac
    // System, without effect on what is decoded.
    case bound, arpl, lar, lsl, verr, verw, sldt, str, smsw, sgdt, sidt, movFromControl,
        movFromDebug, rdmsr, rdpmc, swapgs, readSegmentBase, writeSegmentBase,
        xgetbv, xsave, xsaveopt, xsavec, xrstor, cacheLineFlush, fence, pause
}

/// What `OperationCode.transfer` does: an instruction that ends its block and is followed by a
/// look at what may have changed. RIP is the instruction's own on entry.
enum TransferOperation: UInt8 {
    // Branches outside the fast set.
    case jumpNear, callNear, ret, jumpFar, callFar, jumpFarMemory, callFarMemory, retFar, jrcxz,
        loop, loope, loopne, branchBeyondLimit
    case int, int3, int1, into, iret, syscall, sysret, sysenter, sysexit
    // Segments, flags and modes.
    case popSegment, movToSegment, loadFarPointer, popf, sti, hlt, movToControl, movToDebug, lmsw,
        clts, lgdt, lidt, lldt, ltr, wrmsr, xsetbv, invlpg, invpcid, rdtsc, hypercall,
        cpuid, cacheFlush
    case inPort, outPort, ins, outs
}

enum StringOperation: UInt8 {
    case movs, stos, lods, cmps, scas
}
