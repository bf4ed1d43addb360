/// What instructions can see and change of one x86 CPU, as a plain value: how a provider hands a
/// CPU to another one for a moment.
///
/// Interrupt controllers, timers and everything that needs a clock stay with their provider.
public struct CPUState: Sendable {
    /// A segment register with its hidden part.
    public struct Segment: Sendable, Equatable, BitwiseCopyable {
        public var selector: UInt16 = 0
        /// Type, S, DPL and P at bits 0-7; AVL, L, D/B and G at bits 12-15; "unusable" at bit 16
        /// (SDM volume 3, section 25.4.1).
        public var attributes: UInt32 = 0
        /// In bytes.
        public var limit: UInt32 = 0
        public var base: UInt64 = 0

        public init() {}
    }

    /// RAX..R15 by number.
    public var registers = InlineArray<16, UInt64>(repeating: 0)
    public var rip: UInt64 = 0
    public var rflags: UInt64 = 2
    /// ES, CS, SS, DS, FS, GS, LDTR, TR. The privilege level is SS's DPL.
    public var segments = InlineArray<8, Segment>(repeating: Segment())
    public var gdt = InitialCPUState.DescriptorTable(base: 0, limit: 0)
    public var idt = InitialCPUState.DescriptorTable(base: 0, limit: 0)
    public var cr0: UInt64 = 0
    public var cr2: UInt64 = 0
    public var cr3: UInt64 = 0
    public var cr4: UInt64 = 0
    public var efer: UInt64 = 0
    public var debugRegisters = InlineArray<8, UInt64>(repeating: 0)
    public var star: UInt64 = 0
    public var lstar: UInt64 = 0
    public var cstar: UInt64 = 0
    public var sfmask: UInt64 = 0
    public var kernelGSBase: UInt64 = 0
    public var sysenterCS: UInt64 = 0
    public var sysenterESP: UInt64 = 0
    public var sysenterEIP: UInt64 = 0
    public var tscAux: UInt64 = 0
    public var tsc: UInt64 = 0
    /// Interrupts wait for one more instruction (after STI or a load of SS).
    public var hasInterruptShadow = false
    public var isNMIBlocked = false
    public var xcr0: UInt64 = 1
    /// What XCR0 can hold, as the guest's CPUID says (leaf 0Dh).
    public var permittedXCR0: UInt64 = 3
    /// Protection keys' rights, in force where CR4.PKE says so. A copy: what is meant to be changed
    /// is in `extendedImage`.
    public var pkru: UInt32 = 0
    /// x87, MMX and SSE in FXSAVE's format (SDM volume 1, section 10.5.1).
    public var fxImage = InlineArray<64, UInt64>(repeating: 0)
    /// An XSAVE image in the standard form, whose components beyond SSE are meant (section 13.4);
    /// what it has of x87 and SSE is not. Empty where there are none.
    public var extendedImage: [UInt8] = []
    /// An instruction has changed `extendedImage`.
    public var hasExtendedChange = false

    public init() {}
}
