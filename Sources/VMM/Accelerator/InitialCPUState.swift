/// The registers with which a machine's first CPU starts, for the ways in which a kernel can be
/// entered.
public enum InitialCPUState: Sendable, Equatable {
    /// As after a hardware reset: real mode at FFFF_FFF0.
    case reset
    /// The 64-bit Linux boot protocol (Linux, Documentation/x86/boot.rst): long mode with flat
    /// segments and the page tables at `pageTables` (CR3), RSI = `bootParameters`, the stack
    /// pointer at `stack`, interrupts off.
    case linux64(
        entry: UInt64, bootParameters: UInt64, pageTables: UInt64, gdt: DescriptorTable,
        stack: UInt64)
    /// The PVH entry (Xen, docs/misc/pvh.pandoc): 32-bit protected mode without paging, flat
    /// segments, EBX = the start info's address.
    case pvh(entry: UInt32, startInfo: UInt32, gdt: DescriptorTable)
    /// A Multiboot kernel's entry (Multiboot Specification 0.6.96, section 3.2): as PVH, but EAX
    /// says who the loader is, and EBX = the information structure's address.
    case multiboot(entry: UInt32, information: UInt32, gdt: DescriptorTable)

    /// What EAX is then.
    public static let multibootMagic: UInt32 = 0x2bad_b002

    /// What GDTR holds.
    public struct DescriptorTable: Sendable, Equatable {
        public var base: UInt64
        public var limit: UInt16

        public init(base: UInt64, limit: UInt16) {
            self.base = base
            self.limit = limit
        }
    }
}
