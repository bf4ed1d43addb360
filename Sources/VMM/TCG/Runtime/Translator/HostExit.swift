/// A jump from translated code to the block that follows.
struct HostJump: BitwiseCopyable {
    /// Where its distance is in the arena, or 0.
    var place: UInt32 = 0
    /// What it goes to as long as the block that follows is not known.
    var exit: UInt32 = 0
    /// The arithmetic flags are in EFLAGS there, otherwise in the frame.
    var hasNativeFlags = false

    init() {}

    init(place: Int, exit: Int, _ flags: HostBlock.FlagPlace) {
        self.place = UInt32(truncatingIfNeeded: place)
        self.exit = UInt32(truncatingIfNeeded: exit)
        hasNativeFlags = flags == .native
    }
}

/// One of the ways out of translated code. It lies in the arena, and its address is what the code
/// leaves with.
struct HostExit: BitwiseCopyable {
    /// The block whose code it is, and the one that ends here (both are the same but in a trace).
    var owner: UInt
    var block: UInt
    /// In which way it ends.
    var edge: BlockExit.Edge
    var jump = HostJump()
    /// The same in the code that looks into the TLB for each access, where there are both.
    var plainJump = HostJump()
    /// What the jumps are linked to.
    var link = BlockLink()

    static let stride = MemoryLayout<HostExit>.stride

    /// RIP there.
    var rip: UInt64 {
        guard let block = Block(address: block) else { return 0 }
        let header = unsafe block.header
        return unsafe edge == .taken ? header.pointee.takenRIP : header.pointee.nextRIP
    }
}

/// Why translated code was left: what is in R9 then, above an address. Where the interpreter has left
/// it, R9 is 0.
enum LeaveReason: UInt {
    /// By one of its ways out; the address is the `HostExit`'s. Otherwise it is the first block's.
    case exit = 1
    /// The block may not run now.
    case start
    /// The guest does not mask all exceptions of vector or x87 instructions.
    case unmasked
    /// The address that a branch goes to, in the frame, has no code.
    case target

    private static let shift = 48

    func word(_ address: UInt) -> UInt64 { UInt64(address | rawValue << Self.shift) }

    /// What a word says.
    static func parts(_ word: UInt) -> (reason: LeaveReason, address: UInt)? {
        LeaveReason(rawValue: word >> shift).map { ($0, word & (1 << shift - 1)) }
    }
}
