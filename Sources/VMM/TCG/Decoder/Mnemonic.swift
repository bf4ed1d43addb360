/// Instruction names as in Intel's manual, in lower case. Families that differ only by the
/// condition in their opcode share one name (`jcc`, `setcc`, `cmovcc`).
public enum Mnemonic: UInt16, BitwiseCopyable, Sendable {
    case invalid
}

/// What CPUID must offer for an instruction to be defined.
public enum Feature: UInt8, BitwiseCopyable, Sendable {
    case base
}
