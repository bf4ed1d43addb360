/// A handle on one virtual CPU's state: one pointer, passed by value everywhere. What a CPU can do
/// is spread over extensions of this type by topic: memory, segments, exceptions, the interpreter.
// SAFETY: the pointer is valid for as long as its TCGVCPU lives, which holds for everything that
// runs on that CPU's thread; fields are plain data, and indices are masked or come from the
// decoder, which only makes numbers below 17 (general) and 8 (segments).
@safe struct CPU {
    let state: UnsafeMutablePointer<VCPUState>

    @inline(__always)
    init(_ state: UnsafeMutablePointer<VCPUState>) { unsafe self.state = state }

    /// The state, for code that is not worth a pointer: `fields.cr0`.
    @inline(__always)
    var fields: VCPUState {
        _read { yield unsafe state.pointee }
        nonmutating _modify { yield unsafe &state.pointee }
    }

    /// The FXSAVE image in front of the state.
    @inline(__always)
    var fxImage: UnsafeMutableRawPointer {
        unsafe UnsafeMutableRawPointer(state) - VCPUState.fxImageSize
    }

    /// What translated code keeps, in front of that (see HostFrame.swift).
    @inline(__always)
    var frame: UnsafeMutableRawPointer {
        unsafe UnsafeMutableRawPointer(state) - Int(HostFrame.state)
    }

    /// Instructions that may still run before `execute` returns to its caller.
    @inline(__always)
    var budget: Int64 {
        get { unsafe frame.load(fromByteOffset: Int(HostFrame.budget), as: Int64.self) }
        nonmutating set {
            unsafe frame.storeBytes(
                of: newValue, toByteOffset: Int(HostFrame.budget), as: Int64.self)
        }
    }

    /// A general register in full; 16 reads as zero.
    @inline(__always)
    subscript(register: UInt8) -> UInt64 {
        get { unsafe state.pointee.registers[unchecked: Int(register)] }
        nonmutating set { unsafe state.pointee.registers[unchecked: Int(register)] = newValue }
    }

    @inline(__always)
    var rip: UInt64 {
        get { unsafe state.pointee.rip }
        nonmutating set { unsafe state.pointee.rip = newValue }
    }

    @inline(__always)
    func addressBase(_ segment: UInt8) -> UInt64 {
        unsafe state.pointee.addressBase[unchecked: Int(segment & 7)]
    }

    @inline(__always)
    func segment(_ number: UInt8) -> Segment {
        unsafe state.pointee.segments[unchecked: Int(number & 7)]
    }

    @inline(__always)
    var cpl: UInt8 { unsafe state.pointee.cpl }

    /// 64-bit code (not compatibility mode).
    @inline(__always)
    var is64Bit: Bool { unsafe state.pointee.codeSize == 8 }

    /// CR0.PE without VM86.
    var isProtectedMode: Bool {
        unsafe state.pointee.cr0 & 1 != 0 && state.pointee.systemFlags & RFLAGS.vm == 0
    }
}

/// Bits of RFLAGS (SDM volume 1, section 3.4.3).
enum RFLAGS {
    static let cf: UInt64 = 1 << 0
    static let pf: UInt64 = 1 << 2
    static let af: UInt64 = 1 << 4
    static let zf: UInt64 = 1 << 6
    static let sf: UInt64 = 1 << 7
    static let tf: UInt64 = 1 << 8
    static let interruptEnable: UInt64 = 1 << 9
    static let df: UInt64 = 1 << 10
    static let of: UInt64 = 1 << 11
    static let iopl: UInt64 = 3 << 12
    static let nt: UInt64 = 1 << 14
    static let rf: UInt64 = 1 << 16
    static let vm: UInt64 = 1 << 17
    static let ac: UInt64 = 1 << 18
    static let vif: UInt64 = 1 << 19
    static let vip: UInt64 = 1 << 20
    static let id: UInt64 = 1 << 21

    static let arithmetic = cf | pf | af | zf | sf | of
    /// All flags that exist.
    static let defined: UInt64 = 0x3F_7FD7
    /// What IRET may change at all: everything but VM.
    static let returnable: UInt64 = defined & ~vm & ~2
}
