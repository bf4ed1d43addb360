/// How an operation's memory address is computed.
enum AddressKind: UInt8, BitwiseCopyable {
    /// 64-bit address size and a segment without a base: the effective address is the linear one.
    /// Also register forms.
    case flat64
    /// 64-bit address size with FS or GS.
    case segment64
    /// 32-bit address size in 64-bit code.
    case address32In64
    /// 32-bit address size in flat 32-bit code (`ModeKey.flat`), not FS or GS.
    case flat32
    /// 16- and 32-bit code: the segment's base is added and its limit and type are checked.
    case checked32
    case checked16
}

/// What an operation's operands are, for the codes that serve several forms, and its prefixes.
struct OperationForm: OptionSet, BitwiseCopyable {
    let rawValue: UInt8

    static let memoryDestination = OperationForm(rawValue: 1 << 0)
    static let memorySource = OperationForm(rawValue: 1 << 1)
    static let immediateSource = OperationForm(rawValue: 1 << 2)
    /// LOCK, or XCHG with memory, where other CPUs may be running.
    static let locked = OperationForm(rawValue: 1 << 3)
    static let rep = OperationForm(rawValue: 1 << 4)
    static let repne = OperationForm(rawValue: 1 << 5)
    /// `displacement` or `immediate` is an address that was found from RIP.
    static let relativeDisplacement = OperationForm(rawValue: 1 << 6)
    static let relativeImmediate = OperationForm(rawValue: 1 << 7)
    static let isRelative: OperationForm = [.relativeDisplacement, .relativeImmediate]
    static let hasMemory: OperationForm = [.memoryDestination, .memorySource]
}

/// One decoded instruction in the form that the interpreter executes: 32 bytes in a block.
///
/// `destination`, `source`, `base` and `index` are register numbers, 16 being an absent one that
/// reads as zero. For one-byte operands they are byte offsets into the register file instead, so
/// that AL is 0 and AH is 1.
struct Operation: BitwiseCopyable {
    var code: OperationCode
    /// Of the instruction, in bytes.
    var length: UInt8 = 0
    /// How many instructions of the block come before this one.
    var number: UInt8 = 0
    /// From the block's first byte to the following instruction.
    var nextOffset: UInt16 = 0
    var destination: UInt8 = 16
    var source: UInt8 = 16
    var base: UInt8 = 16
    var index: UInt8 = 16
    /// The index register's shift, 0-3.
    var scale: UInt8 = 0
    var segment: UInt8 = SegmentRegister.ds
    var addressKind: AddressKind = .flat64
    /// Operand size in bytes.
    var size: UInt8 = 0
    var form: OperationForm = []
    /// The second selector of `general`, `transfer` and `string`.
    var detail: UInt8 = 0
    var immediate: Int64 = 0
    /// Added to base and index; the whole address of a RIP-relative operand. String instructions
    /// keep their address size here.
    var displacement: Int64 = 0

    init(_ code: OperationCode) { self.code = code }
}

/// A place in a block's operations.
// SAFETY: made from a block's own operations and moved on only past operations that do not end
// the block; the block's memory outlives its execution (see CodeCache).
@safe struct OperationPointer {
    let pointer: UnsafeMutablePointer<Operation>

    @inline(__always)
    init(_ pointer: UnsafeMutablePointer<Operation>) { unsafe self.pointer = pointer }

    @inline(__always) var code: OperationCode { unsafe pointer.pointee.code }
    @inline(__always) var length: UInt8 { unsafe pointer.pointee.length }
    @inline(__always) var number: UInt8 { unsafe pointer.pointee.number }
    @inline(__always) var nextOffset: UInt16 { unsafe pointer.pointee.nextOffset }
    @inline(__always) var destination: UInt8 { unsafe pointer.pointee.destination }
    @inline(__always) var source: UInt8 { unsafe pointer.pointee.source }
    @inline(__always) var base: UInt8 { unsafe pointer.pointee.base }
    @inline(__always) var index: UInt8 { unsafe pointer.pointee.index }
    @inline(__always) var scale: UInt8 { unsafe pointer.pointee.scale }
    @inline(__always) var segment: UInt8 { unsafe pointer.pointee.segment }
    @inline(__always) var addressKind: AddressKind { unsafe pointer.pointee.addressKind }
    @inline(__always) var size: UInt8 { unsafe pointer.pointee.size }
    @inline(__always) var form: OperationForm { unsafe pointer.pointee.form }
    @inline(__always) var detail: UInt8 { unsafe pointer.pointee.detail }
    @inline(__always) var immediate: Int64 { unsafe pointer.pointee.immediate }
    @inline(__always) var displacement: Int64 { unsafe pointer.pointee.displacement }
    @inline(__always) var next: OperationPointer { unsafe OperationPointer(pointer + 1) }
}
