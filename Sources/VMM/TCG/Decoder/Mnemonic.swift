/// Instruction names as in Intel's manual, in lower case. Families that differ only by the
/// condition in their opcode share one name (`jcc`, `setcc`, `cmovcc`), and so do forms that
/// differ only by a size that the operands or `operandSize` tell.
public enum Mnemonic: UInt16, BitwiseCopyable, Sendable {
    case invalid
    // VEX- and EVEX-encoded instructions without a name of their own: `map`, `opcode`,
    // `mandatoryPrefix`, `vectorW` and `vectorLength` tell which one it is.
    case vex
    case evex
    // AMD's XOP and 3DNow! (FEMMS included): never executed.
    case xop
    case threeDNow
    // General-purpose: arithmetic and logic (SDM volume 2).
    case adc, adcx, add, adox, and, andn, bextr, blsi, blsmsk, blsr, bsf, bsr, bswap, bt, btc, btr,
        bts, bzhi, cmp, cmpxchg, cmpxchg8b, cmpxchg16b, crc32, dec, div, idiv, imul, inc, lzcnt,
        mul, mulx, neg, not, or, pdep, pext, popcnt, rcl, rcr, rol, ror, rorx, sar, sarx, sbb, shl,
        shld, shlx, shr, shrd, shrx, sub, test, tzcnt, xadd, xor

    // General-purpose: moves, conversions and flags. `cbw` is all of 98 (CBW, CWDE, CDQE by the
    // operand size), `cwd` all of 99; `mov` also moves segment, control and debug registers.
    case aaa, aad, aam, aas, cbw, clc, cld, cmc, cmovcc, cwd, daa, das, lahf, lar, lds, lea, les,
        lfs, lgs, lsl, lss, mov, movbe, movdiri, movdir64b, movnti, movsx, movsxd, movzx, nop,
        pause, pop, popa, popf, prefetch, push, pusha, pushf, sahf, salc, setcc, stc, std, xchg,
        xlat

    // String and port instructions; the operand size tells which width.
    case cmps, ins, lods, movs, outs, scas, stos, inPort, outPort

    // Control transfer. `jrcxz` is JCXZ, JECXZ and JRCXZ by the address size, `iret` all of CF by
    // the operand size.
    case bound, call, callFar, endbr32, endbr64, enter, int, int1, int3, into, iret, jcc, jmp,
        jmpFar, jrcxz, leave, loop, loope, loopne, ret, retFar, ud0, ud1, ud2, xabort, xbegin,
        xend, xtest

    // System.
    case arpl, clac, clflush, clflushopt, cli, clts, clwb, cpuid, getsec, hlt, invd, invlpg,
        invpcid, lfence, lgdt, lidt, lldt, lmsw, ltr, mfence, monitor, mwait, rdfsbase, rdgsbase,
        rdmsr, rdpid, rdpkru, rdpmc, rdrand, rdseed, rdtsc, rdtscp, rsm, serialize, sfence, sgdt,
        sidt, sldt, smsw, stac, sti, str, swapgs, syscall, sysenter, sysexit, sysret, tpause,
        umonitor, umwait, verr, verw, wbinvd, wrfsbase, wrgsbase, wrmsr, wrpkru, ptwrite, pconfig,
        encls, enclu, enclv, hreset, enqcmd, enqcmds, xresldtrk, xsusldtrk

    // Extended state; REX.W in `prefixes` tells the 64-bit forms apart.
    case fxrstor, fxsave, ldmxcsr, stmxcsr, xgetbv, xrstor, xrstors, xsave, xsavec, xsaveopt,
        xsaves, xsetbv

    // Control-flow enforcement and user interrupts. The shadow stack's d and q forms share a name.
    case clrssbsy, incssp, rdssp, rstorssp, saveprevssp, setssbsy, wrss, wruss, clui, senduipi,
        stui, testui, uiret

    // Virtualisation: VMX, TDX, SVM, SEV-SNP and other AMD system instructions.
    case invept, invvpid, vmcall, vmclear, vmfunc, vmlaunch, vmptrld, vmptrst, vmread, vmresume,
        vmwrite, vmxoff, vmxon, seamcall, seamops, seamret, tdcall, clgi, invlpga, invlpgb, skinit,
        stgi, vmgexit, vmload, vmmcall, vmrun, vmsave, tlbsync, psmash, pvalidate, rmpadjust,
        rmpupdate, clzero, mcommit, monitorx, mwaitx, rdpru

    // VIA PadLock.
    case xstore, xcryptEcb, xcryptCbc, xcryptCtr, xcryptCfb, xcryptOfb, montmul, xsha1, xsha256

    // x87. Aliases of an instruction carry its name.
    case f2xm1, fabs, fadd, faddp, fbld, fbstp, fchs, fcmovb, fcmovbe, fcmove, fcmovnb, fcmovnbe,
        fcmovne, fcmovnu, fcmovu, fcom, fcomi, fcomip, fcomp, fcompp, fcos, fdecstp, fdiv, fdivp,
        fdivr, fdivrp, ffree, ffreep, fiadd, ficom, ficomp, fidiv, fidivr, fild, fimul, fincstp,
        fist, fistp, fisttp, fisub, fisubr, fld, fld1, fldcw, fldenv, fldl2e, fldl2t, fldlg2,
        fldln2, fldpi, fldz, fmul, fmulp, fnclex, fndisi, fneni, fninit, fnop, fnsave, fnsetpm,
        fnstcw, fnstenv, fnstsw, fpatan, fprem, fprem1, fptan, frndint, frstor, fscale, fsin,
        fsincos, fsqrt, fst, fstp, fsub, fsubp, fsubr, fsubrp, ftst, fucom, fucomi, fucomip,
        fucomp, fucompp, fwait, fxam, fxch, fxtract, fyl2x, fyl2xp1

    // MMX, and SSE integer instructions that also have an XMM form.
    case emms, maskmovq, movd, movntq, movq, packssdw, packsswb, packuswb, paddb, paddd, paddq,
        paddsb, paddsw, paddusb, paddusw, paddw, pand, pandn, pavgb, pavgw, pcmpeqb, pcmpeqd,
        pcmpeqw, pcmpgtb, pcmpgtd, pcmpgtw, pextrw, pinsrw, pmaddwd, pmaxsw, pmaxub, pminsw,
        pminub, pmovmskb, pmulhuw, pmulhw, pmullw, pmuludq, por, psadbw, pshufw, pslld, psllq,
        psllw, psrad, psraw, psrld, psrlq, psrlw, psubb, psubd, psubq, psubsb, psubsw, psubusb,
        psubusw, psubw, punpckhbw, punpckhdq, punpckhwd, punpcklbw, punpckldq, punpcklwd, pxor

    // SSE.
    case addps, addss, andnps, andps, cmpps, cmpss, comiss, cvtpi2ps, cvtps2pi, cvtsi2ss, cvtss2si,
        cvttps2pi, cvttss2si, divps, divss, maxps, maxss, minps, minss, movaps, movhlps, movhps,
        movlhps, movlps, movmskps, movntps, movss, movups, mulps, mulss, orps, rcpps, rcpss,
        rsqrtps, rsqrtss, shufps, sqrtps, sqrtss, subps, subss, ucomiss, unpckhps, unpcklps, xorps

    // SSE2.
    case addpd, addsd, andnpd, andpd, cmppd, cmpsd, comisd, cvtdq2pd, cvtdq2ps, cvtpd2dq, cvtpd2pi,
        cvtpd2ps, cvtpi2pd, cvtps2dq, cvtps2pd, cvtsd2si, cvtsd2ss, cvtsi2sd, cvtss2sd, cvttpd2dq,
        cvttpd2pi, cvttps2dq, cvttsd2si, divpd, divsd, maskmovdqu, maxpd, maxsd, minpd, minsd,
        movapd, movdq2q, movdqa, movdqu, movhpd, movlpd, movmskpd, movntdq, movntpd, movq2dq,
        movsd, movupd, mulpd, mulsd, orpd, pshufd, pshufhw, pshuflw, pslldq, psrldq, punpckhqdq,
        punpcklqdq, shufpd, sqrtpd, sqrtsd, subpd, subsd, ucomisd, unpckhpd, unpcklpd, xorpd

    // SSE3 and SSSE3.
    case addsubpd, addsubps, haddpd, haddps, hsubpd, hsubps, lddqu, movddup, movshdup, movsldup,
        pabsb, pabsd, pabsw, palignr, phaddd, phaddsw, phaddw, phsubd, phsubsw, phsubw, pmaddubsw,
        pmulhrsw, pshufb, psignb, psignd, psignw

    // SSE4.1, SSE4.2 and SSE4A.
    case blendpd, blendps, blendvpd, blendvps, dppd, dpps, extractps, insertps, movntdqa, mpsadbw,
        packusdw, pblendvb, pblendw, pcmpeqq, pextrb, pextrd, pextrq, phminposuw, pinsrb, pinsrd,
        pinsrq, pmaxsb, pmaxsd, pmaxud, pmaxuw, pminsb, pminsd, pminud, pminuw, pmovsxbd, pmovsxbq,
        pmovsxbw, pmovsxdq, pmovsxwd, pmovsxwq, pmovzxbd, pmovzxbq, pmovzxbw, pmovzxdq, pmovzxwd,
        pmovzxwq, pmuldq, pmulld, ptest, roundpd, roundps, roundsd, roundss, pcmpestri, pcmpestrm,
        pcmpgtq, pcmpistri, pcmpistrm, extrq, insertq, movntsd, movntss

    // Cryptography and Galois fields.
    case aesdec, aesdeclast, aesenc, aesenclast, aesimc, aeskeygenassist, pclmulqdq, sha1msg1,
        sha1msg2, sha1nexte, sha1rnds4, sha256msg1, sha256msg2, sha256rnds2, gf2p8affineinvqb,
        gf2p8affineqb, gf2p8mulb, aesdec128kl, aesdec256kl, aesdecwide128kl, aesdecwide256kl,
        aesenc128kl, aesenc256kl, aesencwide128kl, aesencwide256kl, encodekey128, encodekey256,
        loadiwkey
}

/// What CPUID must offer for an instruction to be defined.
///
/// An encoding that a processor without the feature executes as something else is `base`, and
/// whoever executes it asks CPUID: TZCNT is BSF without BMI1, LZCNT is BSR without LZCNT, RDSSP
/// does nothing without CET.
public enum Feature: UInt8, BitwiseCopyable, Sendable {
    /// The instruction exists on every 64-bit processor, or needs no CPUID bit.
    case base
    case cmov
    case cmpxchg8b
    case cmpxchg16b
    /// x87.
    case fpu
    case mmx
    /// FXSAVE, FXRSTOR.
    case fxsr
    case clflush
    case sse
    case sse2
    case sse3
    /// SSE3's FISTTP: CPUID's SSE3 and FPU bits.
    case fisttp
    /// MONITOR, MWAIT.
    case monitor
    case ssse3
    case sse4_1
    case sse4_2
    case sse4a
    case popcnt
    case aes
    case pclmulqdq
    case sha
    case movbe
    case bmi1
    case bmi2
    case adx
    case lzcnt
    case fsgsbase
    case rdrand
    case rdseed
    case rdpid
    case rdtscp
    /// XSAVE, XRSTOR, XGETBV, XSETBV.
    case xsave
    case xsaveopt
    case xsavec
    case xsaves
    case invpcid
    /// STAC, CLAC.
    case smap
    case pku
    case clflushopt
    case clwb
    /// MOVDIRI, MOVDIR64B.
    case movdiri
    case waitpkg
    case serialize
    case tsx
    case cet
    case uintr
    case ptwrite
    case gfni
    case keyLocker
    case enqcmd
    case smx
    case sgx
    case pconfig
    case hreset
    case tdx
    case vmx
    /// SVM and the other virtualisation instructions of AMD.
    case svm
    /// AMD's CLZERO, MCOMMIT, MONITORX, MWAITX, RDPRU.
    case amd
    case padLock
    case avx
    case avx2
    case fma
    case fma4
    case f16c
    case vaes
    case vpclmulqdq
    case avxVNNI
    case amx
    /// AVX-512 in all its parts, opmask instructions included.
    case avx512
    /// XOP, TBM and LWP.
    case xop
    case threeDNow
}
