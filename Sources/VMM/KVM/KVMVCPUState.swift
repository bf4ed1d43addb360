internal import CLinux
internal import Glibc

/// A structure of KVM's as a value: compared by its bytes.
struct KVMValue<Structure: BitwiseCopyable & Sendable>: Equatable, Sendable {
    var value: Structure

    static func == (a: Self, b: Self) -> Bool {
        // SAFETY: both are plain bytes, which live for the call.
        unsafe withUnsafeBytes(of: a.value) { first in
            unsafe withUnsafeBytes(of: b.value) { second in
                unsafe first.elementsEqual(second)
            }
        }
    }
}

/// Everything that one vCPU of KVM's is, between two instructions. A plain value: what resets a
/// CPU, and what a snapshot or a migration will carry.
public struct KVMVCPUState: Equatable, Sendable {
    /// The layout of the values below; a reader refuses any other.
    public static let version: UInt32 = 1

    /// A model-specific register.
    struct ModelSpecific: Equatable, Sendable {
        var number: UInt32
        var value: UInt64
    }

    public internal(set) var version = Self.version
    var registers = KVMValue(value: kvm_regs())
    var system = KVMValue(value: kvm_sregs())
    var debug = KVMValue(value: kvm_debugregs())
    var events = KVMValue(value: kvm_vcpu_events())
    var extendedControl = KVMValue(value: kvm_xcrs())
    /// The XSAVE image: x87, SSE and beyond.
    var extended: [UInt8] = []
    /// The local APIC's page of registers.
    var localAPIC: [UInt8] = []
    /// Whether the CPU runs, is halted, or waits for INIT or a start-up IPI (KVM_MP_STATE_*).
    var activity: UInt32 = 0
    /// In KVM's order, without those that the host does not give.
    var modelSpecific: [ModelSpecific] = []

    /// The instruction pointer.
    public var rip: UInt64 { registers.value.rip }
    /// RAX and so on, by number.
    public var generalRegisters: [UInt64] {
        let r = registers.value
        return [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
            r.r13, r.r14, r.r15,
        ]
    }
}
