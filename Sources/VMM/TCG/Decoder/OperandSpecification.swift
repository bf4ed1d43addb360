/// What an operand is and where its number comes from, in the notation of SDM volume 2,
/// appendix A.2: a letter for the source (E: ModRM.rm, G: ModRM.reg, M: ModRM.rm as memory only,
/// R, N and U: ModRM.rm as register only, Z: low opcode bits, ...) and one for the size (b, w, d,
/// q, dq, qq: fixed; v: operand size; y: 4 or 8 by W; z: 2 or 4; x: vector length).
enum OperandSpecification: UInt8, BitwiseCopyable {
    case none

    // General registers or memory by ModRM.rm.
    case Eb, Ew, Ed, Eq, Ev, Ey, Ez
    /// A register of the operand size, or 16 bits of memory.
    case RvMw
    /// A register of at most 32 bits, or 16 bits of memory.
    case RzMw
    /// A 32-bit register, or 8 or 16 bits of memory.
    case RdMb, RdMw
    /// A register of 4 or 8 bytes by W, or 8 or 16 bits of memory.
    case RyMb, RyMw

    // Memory by ModRM.rm; `M` has no size.
    case M, Mb, Mw, Md, Mq, Mdq, Mqq, Mx, Mv, My
    /// Far pointer, BOUND's pair, a descriptor table's limit and base.
    case Mp, Ma, Ms
    /// x87: 80 bits; the environment and the state, whose size follows the operand size.
    case Mt, Menv, Mstate
    /// 48 bytes, 64 bytes, half and quarter of the vector length.
    case M48, M64, Mh, Mf, Me
    /// A vector index, accessed by elements of 4 or 8 bytes.
    case MvsibD, MvsibQ
    /// CMPXCHG8B and CMPXCHG16B by W.
    case Mcx

    // General registers by ModRM.reg, by ModRM.rm (registers only) and by VEX.vvvv.
    case Gb, Gw, Gd, Gq, Gv, Gy, Gz
    case Rd, Rq, Rv, Ry
    /// The mode's natural size, for moves from and to control and debug registers.
    case Rm
    /// A register of the address size (MOVDIR64B, ENQCMD, UMONITOR, INVPCID).
    case Ga, Ra
    /// The mode's natural size by ModRM.reg.
    case Gm
    /// The mode's natural size, register or memory (VMREAD, VMWRITE).
    case Em
    case By
    // Control, debug and segment registers by ModRM.reg.
    case Cd, Dd, Sw
    /// The same, without CS.
    case SwNotCS

    // MMX registers by ModRM.reg and ModRM.rm.
    case Pq, Qq, Qd, Nq

    // Vector registers by ModRM.reg (V), VEX.vvvv (H), immediate bits 7-4 (L).
    case Vx, Vdq, Vqq, Vzz, Vh, Vf, Ve, Hx, Hdq, Lx, Ldq
    // Vector registers or memory by ModRM.rm: a scalar in memory is an XMM register's low part;
    // h, f and e are a half, a quarter and an eighth of the vector length.
    case Wx, Wdq, Wqq, Wb, Ww, Wd, Wq, Wh, Wf, We
    // Vector registers by ModRM.rm.
    case Ux, Udq, Uqq
    /// MOVDDUP's source: 8 bytes for the shortest vector, else the whole.
    case Wdup
    // Mask registers by ModRM.reg, VEX.vvvv and ModRM.rm; with memory of 1 to 8 bytes.
    case Kg, Kv, Kr, KrMb, KrMw, KrMd, KrMq

    // Tiles by ModRM.reg, ModRM.rm and VEX.vvvv; rows of tiles in memory, which needs an SIB.
    case Tg, Tr, Tv, Mtile

    // Registers by the opcode's low three bits.
    case Zb, Zv
    // Fixed registers and the constant one.
    case AL, CL, DX, fixedAX, fixedEAX, fixedECX, fixedEDX, fixedRAX, fixedRCX, fixedRDX, rAX, eAX,
        const1
    /// The accumulator in the address size (AMD's system instructions).
    case aAX
    case segES, segCS, segSS, segDS, segFS, segGS
    case ST0, STi

    // Immediates (s: sign-extended), branch displacements, absolute offsets, far pointers.
    case Ib, sIb, Iw, Iz, Iv
    /// The second immediate byte of ENTER, EXTRQ and INSERTQ.
    case Ib2
    case Jb, Jz
    case Ob, Ov
    case Ap

    /// The instruction has a ModRM byte if any of its operands comes from one.
    var usesModRM: Bool {
        rawValue >= OperandSpecification.Eb.rawValue
            && rawValue <= OperandSpecification.Mtile.rawValue || self == .STi
    }
}
