// The register file and memory as typed operands. See Operation for how registers are numbered.

/// The operand types: UInt8, UInt16, UInt32, UInt64.
typealias OperandWord = FixedWidthInteger & UnsignedInteger & BitwiseCopyable

extension CPU {
    // SAFETY for both: the registers are the state's first field, and numbers come from the
    // decoder (see CPU).
    @inline(__always)
    func register<T: OperandWord>(_ number: UInt8, as type: T.Type) -> T {
        let offset = MemoryLayout<T>.size == 1 ? Int(number) : Int(number) &* 8
        return unsafe UnsafeRawPointer(state).load(fromByteOffset: offset, as: type)
    }

    /// 32-bit results clear the upper half; narrower ones leave it.
    @inline(__always)
    func setRegister<T: OperandWord>(_ number: UInt8, _ value: T) {
        let raw = unsafe UnsafeMutableRawPointer(state)
        switch MemoryLayout<T>.size {
        case 1: unsafe raw.storeBytes(of: value, toByteOffset: Int(number), as: T.self)
        case 4:
            unsafe raw.storeBytes(
                of: UInt64(truncatingIfNeeded: value), toByteOffset: Int(number) &* 8,
                as: UInt64.self)
        default: unsafe raw.storeBytes(of: value, toByteOffset: Int(number) &* 8, as: T.self)
        }
    }
}

/// Register numbers with a fixed role.
enum Register {
    static let rax: UInt8 = 0
    static let rcx: UInt8 = 1
    static let rdx: UInt8 = 2
    static let rbx: UInt8 = 3
    static let rsp: UInt8 = 4
    static let rbp: UInt8 = 5
    static let rsi: UInt8 = 6
    static let rdi: UInt8 = 7
    /// Reads as zero.
    static let none: UInt8 = 16

    /// AL, AH and CL as one-byte operands.
    static let al: UInt8 = 0
    static let ah: UInt8 = 1
    static let cl: UInt8 = 8
}
