/// What the interpreter does for one operation. The frequent instructions have a code of their own
/// for every operand form and size; `general` and `transfer` cover the rest through a second
/// selector.
///
/// Names: R register, M memory, I immediate, C the CL register, destination first; then the
/// operand size in bits. `Lowering` relies on the order of the sizes and forms.
enum OperationCode: UInt16, BitwiseCopyable {
    // MARK: Ends of a block

    /// The code here has been overwritten, or the block ends without a branch.
    case stop
    case fallThrough

    // MARK: Two-operand arithmetic: operation, form, size

    case addRR8, addRR16, addRR32, addRR64, addRI8, addRI16, addRI32, addRI64, addRM8, addRM16,
        addRM32, addRM64, addMR8, addMR16, addMR32, addMR64, addMI8, addMI16, addMI32, addMI64
    case orRR8, orRR16, orRR32, orRR64, orRI8, orRI16, orRI32, orRI64, orRM8, orRM16, orRM32,
        orRM64, orMR8, orMR16, orMR32, orMR64, orMI8, orMI16, orMI32, orMI64
    case adcRR8, adcRR16, adcRR32, adcRR64, adcRI8, adcRI16, adcRI32, adcRI64, adcRM8, adcRM16,
        adcRM32, adcRM64, adcMR8, adcMR16, adcMR32, adcMR64, adcMI8, adcMI16, adcMI32, adcMI64
    case sbbRR8, sbbRR16, sbbRR32, sbbRR64, sbbRI8, sbbRI16, sbbRI32, sbbRI64, sbbRM8, sbbRM16,
        sbbRM32, sbbRM64, sbbMR8, sbbMR16, sbbMR32, sbbMR64, sbbMI8, sbbMI16, sbbMI32, sbbMI64
    case andRR8, andRR16, andRR32, andRR64, andRI8, andRI16, andRI32, andRI64, andRM8, andRM16,
        andRM32, andRM64, andMR8, andMR16, andMR32, andMR64, andMI8, andMI16, andMI32, andMI64
    case subRR8, subRR16, subRR32, subRR64, subRI8, subRI16, subRI32, subRI64, subRM8, subRM16,
        subRM32, subRM64, subMR8, subMR16, subMR32, subMR64, subMI8, subMI16, subMI32, subMI64
    case xorRR8, xorRR16, xorRR32, xorRR64, xorRI8, xorRI16, xorRI32, xorRI64, xorRM8, xorRM16,
        xorRM32, xorRM64, xorMR8, xorMR16, xorMR32, xorMR64, xorMI8, xorMI16, xorMI32, xorMI64
    case cmpRR8, cmpRR16, cmpRR32, cmpRR64, cmpRI8, cmpRI16, cmpRI32, cmpRI64, cmpRM8, cmpRM16,
        cmpRM32, cmpRM64, cmpMR8, cmpMR16, cmpMR32, cmpMR64, cmpMI8, cmpMI16, cmpMI32, cmpMI64
    case testRR8, testRR16, testRR32, testRR64, testRI8, testRI16, testRI32, testRI64, testRM8,
        testRM16, testRM32, testRM64, testMR8, testMR16, testMR32, testMR64, testMI8, testMI16,
        testMI32, testMI64

    // MARK: Moves

    case movRR8, movRR16, movRR32, movRR64, movRI8, movRI16, movRI32, movRI64, movRM8, movRM16,
        movRM32, movRM64, movMR8, movMR16, movMR32, movMR64, movMI8, movMI16, movMI32, movMI64
    case lea32, lea64, leaGeneral
    // Zero extension to 64 bits serves 32-bit destinations too.
    case movzxRR8, movzxRR16, movzxRM8, movzxRM16
    case movsx32RR8, movsx32RR16, movsx32RM8, movsx32RM16, movsx64RR8, movsx64RR16, movsx64RR32,
        movsx64RM8, movsx64RM16, movsx64RM32
    case xchgRR32, xchgRR64, cwde, cdqe, cdq, cqo, bswap32, bswap64, nop

    // MARK: One-operand arithmetic: operation, form, size

    case incR8, incR16, incR32, incR64, incM8, incM16, incM32, incM64
    case decR8, decR16, decR32, decR64, decM8, decM16, decM32, decM64
    case notR8, notR16, notR32, notR64, notM8, notM16, notM32, notM64
    case negR8, negR16, negR32, negR64, negM8, negM16, negM32, negM64

    // MARK: Shifts and rotations of registers, multiplication

    case shlRI32, shlRI64, shlRC32, shlRC64
    case shrRI32, shrRI64, shrRC32, shrRC64
    case sarRI32, sarRI64, sarRC32, sarRC64
    case rolRI32, rolRI64, rolRC32, rolRC64
    case rorRI32, rorRI64, rorRC32, rorRC64
    case imulRR32, imulRR64, imulRM32, imulRM64, imulRRI32, imulRRI64, imulRMI32, imulRMI64
    case mulR32, mulR64, mulM32, mulM64
    case btRR32, btRR64, btRI32, btRI64

    // MARK: By condition, in the order of the condition codes

    case jo, jno, jb, jae, je, jne, jbe, ja, js, jns, jp, jnp, jl, jge, jle, jg
    case seto, setno, setb, setae, sete, setne, setbe, seta, sets, setns, setp, setnp, setl,
        setge, setle, setg
    case cmovoRR32, cmovnoRR32, cmovbRR32, cmovaeRR32, cmoveRR32, cmovneRR32, cmovbeRR32,
        cmovaRR32, cmovsRR32, cmovnsRR32, cmovpRR32, cmovnpRR32, cmovlRR32, cmovgeRR32,
        cmovleRR32, cmovgRR32
    case cmovoRR64, cmovnoRR64, cmovbRR64, cmovaeRR64, cmoveRR64, cmovneRR64, cmovbeRR64,
        cmovaRR64, cmovsRR64, cmovnsRR64, cmovpRR64, cmovnpRR64, cmovlRR64, cmovgeRR64,
        cmovleRR64, cmovgRR64

    // MARK: The stack and branches of 64-bit code

    case pushR64, pushI64, pushM64, popR64, leave64
    case jump, call64, callR64, callM64, jumpR64, jumpM64, ret64, retImmediate64

    // MARK: Everything else

    /// STI in 64-bit code of supervisor mode. The block goes on behind it unless something waits.
    case enableInterrupts
    /// `GeneralOperation` in `detail`.
    case general
    /// `TransferOperation` in `detail`: ends the block, and sets RIP itself.
    case transfer
    /// A string instruction, `StringOperation` in `detail`.
    case string
    /// An x87 or vector instruction.
    case leaf
    /// Raises #UD.
    case undefined
    /// More than 15 bytes: #GP(0).
    case tooLong

    /// The code `offset` places after this one.
    func advanced(by offset: Int) -> OperationCode {
        OperationCode(rawValue: rawValue &+ UInt16(truncatingIfNeeded: offset)) ?? .undefined
    }
}

extension OperationCode {
    /// Jcc.
    var isConditionalJump: Bool { (Self.jo.rawValue...Self.jg.rawValue).contains(rawValue) }
}
