import CZydis
import TCGDecoder

/// Translates Zydis's names of registers and instructions to Apus's.
enum ZydisNames {
    static func string(_ pointer: UnsafePointer<CChar>?) -> String {
        // SAFETY: Zydis returns pointers to constant strings.
        guard let pointer = unsafe pointer else { return "?" }
        return unsafe String(cString: pointer)
    }

    /// The register as an operand of Apus's decoder.
    static func register(_ value: ZydisRegister) -> Operand {
        func number(from first: ZydisRegister) -> UInt8 {
            UInt8(value.rawValue - first.rawValue)
        }
        switch ZydisRegisterGetClass(value) {
        case ZYDIS_REGCLASS_GPR8:
            // AL-BL, AH-BH, SPL-DIL, R8B-R15B.
            let index = number(from: ZYDIS_REGISTER_AL)
            if index < 4 { return Operand(kind: .general, size: 1, register: index) }
            if index < 8 { return Operand(kind: .generalHigh, size: 1, register: index - 4) }
            return Operand(kind: .general, size: 1, register: index - 4)
        case ZYDIS_REGCLASS_GPR16:
            return Operand(kind: .general, size: 2, register: number(from: ZYDIS_REGISTER_AX))
        case ZYDIS_REGCLASS_GPR32:
            return Operand(kind: .general, size: 4, register: number(from: ZYDIS_REGISTER_EAX))
        case ZYDIS_REGCLASS_GPR64:
            return Operand(kind: .general, size: 8, register: number(from: ZYDIS_REGISTER_RAX))
        case ZYDIS_REGCLASS_X87:
            return Operand(kind: .x87, size: 10, register: number(from: ZYDIS_REGISTER_ST0))
        case ZYDIS_REGCLASS_MMX:
            return Operand(kind: .mmx, size: 8, register: number(from: ZYDIS_REGISTER_MM0))
        case ZYDIS_REGCLASS_XMM:
            return Operand(kind: .vector, size: 16, register: number(from: ZYDIS_REGISTER_XMM0))
        case ZYDIS_REGCLASS_YMM:
            return Operand(kind: .vector, size: 32, register: number(from: ZYDIS_REGISTER_YMM0))
        case ZYDIS_REGCLASS_ZMM:
            return Operand(kind: .vector, size: 64, register: number(from: ZYDIS_REGISTER_ZMM0))
        case ZYDIS_REGCLASS_SEGMENT:
            return Operand(kind: .segment, size: 2, register: number(from: ZYDIS_REGISTER_ES))
        case ZYDIS_REGCLASS_CONTROL:
            let size = UInt8(ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, value) / 8)
            return Operand(kind: .control, size: size, register: number(from: ZYDIS_REGISTER_CR0))
        case ZYDIS_REGCLASS_DEBUG:
            let size = UInt8(ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, value) / 8)
            return Operand(kind: .debug, size: size, register: number(from: ZYDIS_REGISTER_DR0))
        case ZYDIS_REGCLASS_MASK:
            return Operand(kind: .mask, size: 8, register: number(from: ZYDIS_REGISTER_K0))
        case ZYDIS_REGCLASS_TMM:
            return Operand(kind: .tile, size: 0, register: number(from: ZYDIS_REGISTER_TMM0))
        default: return Operand(kind: .none)
        }
    }

    /// Apus's mnemonic for each of Zydis's, by number.
    static func apusNames() -> [Mnemonic?] {
        var own: [String: Mnemonic] = [:]
        var number: UInt16 = 0
        while let mnemonic = Mnemonic(rawValue: number) {
            own["\(mnemonic)"] = mnemonic
            number += 1
        }
        return (0...ZYDIS_MNEMONIC_MAX_VALUE.rawValue).map { value in
            let name = unsafe string(ZydisMnemonicGetString(ZydisMnemonic(value)))
            return own[translate(name)]
        }
    }

    /// Names that Apus shares between forms or spells differently.
    private static func translate(_ name: String) -> String {
        if let exact = exceptions[name] { return exact }
        if name.hasPrefix("set") && !name.hasPrefix("sets") || name == "sets" { return "setcc" }
        if name.hasPrefix("cmov") { return "cmovcc" }
        if name.hasPrefix("j") && !name.hasPrefix("jm") { return "jcc" }
        if name.hasPrefix("prefetch") { return "prefetch" }
        if name.hasPrefix("x") || name.hasPrefix("fx"), name.hasSuffix("64") {
            return String(name.dropLast(2))
        }
        return name
    }

    private static let exceptions: [String: String] = [
        "cwde": "cbw", "cdqe": "cbw", "cdq": "cwd", "cqo": "cwd",
        "jcxz": "jrcxz", "jecxz": "jrcxz", "jrcxz": "jrcxz",
        "in": "inPort", "out": "outPort", "iretd": "iret", "iretq": "iret",
        "pushad": "pusha", "popad": "popa", "pushfd": "pushf", "pushfq": "pushf",
        "popfd": "popf", "popfq": "popf",
        "movsb": "movs", "movsw": "movs", "movsq": "movs",
        "cmpsb": "cmps", "cmpsw": "cmps", "cmpsq": "cmps",
        "stosb": "stos", "stosw": "stos", "stosd": "stos", "stosq": "stos",
        "lodsb": "lods", "lodsw": "lods", "lodsd": "lods", "lodsq": "lods",
        "scasb": "scas", "scasw": "scas", "scasd": "scas", "scasq": "scas",
        "insb": "ins", "insw": "ins", "insd": "ins",
        "outsb": "outs", "outsw": "outs", "outsd": "outs",
        "fstpnce": "fstp", "feni8087_nop": "fneni", "fdisi8087_nop": "fndisi",
        "fsetpm287_nop": "fnsetpm",
        "incsspd": "incssp", "incsspq": "incssp", "rdsspd": "rdssp", "rdsspq": "rdssp",
        "wrssd": "wrss", "wrssq": "wrss", "wrussd": "wruss", "wrussq": "wruss",
    ]
}
