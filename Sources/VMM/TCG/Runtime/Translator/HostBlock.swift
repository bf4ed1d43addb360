/// One block on its way to host code.
///
/// Guest registers are in host registers of the same name but for four (see `HostRegister`), and
/// the guest's arithmetic flags are the host's wherever something may still read them; what
/// destroys them moves them to the frame before, and they come back when they are needed. An
/// access to memory looks into the soft TLB; what that cannot do, and every operation without
/// code here, is the interpreter's.
struct HostBlock {
    /// Where the arithmetic flags are.
    enum FlagPlace { case native, frame }

    /// What is put behind the block's code.
    enum Cold {
        /// Has the interpreter execute the operation.
        case helper(jump: Int, op: Int, flags: FlagPlace?, resume: Int)
        /// Leaves by one of the block's exits.
        case exit(jump: Int, edge: UInt)
        /// Leaves before the block has begun.
        case start(jump: Int, flags: FlagPlace, isCounted: Bool)
    }

    let block: Block
    let stubs: HostStubs
    /// Where the code begins in the arena.
    let base: Int
    var code: HostAssembler
    var colds: [Cold] = []
    var flags = FlagPlace.native
    /// Flags that are read after the current operation, or by it.
    var live: UInt8 = 0
    var liveAfter: UInt8 = 0
    /// The current operation's number.
    var index = 0
    private(set) var nextJump = 0
    private(set) var takenJump = 0

    init(_ block: Block, _ arena: HostArena, _ stubs: HostStubs) {
        self.block = block
        self.stubs = stubs
        base = arena.used
        code = HostAssembler(arena)
    }

    // SAFETY: the block's operations, as many as its header says.
    private func operation(_ index: Int) -> OperationPointer {
        unsafe OperationPointer(block.operations.pointer + index)
    }

    /// Writes all of it.
    mutating func run() {
        let count = unsafe Int(block.header.pointee.operationCount)
        // Behind the block all flags may be read.
        var liveBefore = [UInt8](repeating: FlagUse.all, count: count + 1)
        var uses: [FlagUse] = []
        for index in 0..<count { uses.append(FlagUse(operation(index))) }
        for index in stride(from: count - 1, through: 0, by: -1) {
            liveBefore[index] =
                liveBefore[index + 1] & ~uses[index].writes | uses[index].reads
        }
        begin(isLive: liveBefore[0] != 0)
        for index in 0..<count {
            self.index = index
            liveAfter = liveBefore[index + 1]
            live = liveAfter & ~uses[index].writes | uses[index].reads
            let op = operation(index)
            if !emit(op, uses[index]) { callHelper(op) }
        }
        finish()
    }

    // MARK: The beginning

    /// Looks whether the block may run, and counts its instructions.
    private mutating func begin(isLive: Bool) {
        live = isLive ? FlagUse.all : 0
        saveFlags()
        let header = UInt64(UInt(bitPattern: unsafe block.header))
        code.set(HostRegister.first, to: header + HostState.blockGeneration)
        code.load(HostRegister.second, HostState.check, size: 4)
        code.memory(0x3B, size: 4, reg: HostRegister.second, HostMemory(HostRegister.first))
        colds.append(.start(jump: code.jump(if: 5), flags: flags, isCounted: false))
        code.memory(0x81, size: 8, reg: 5, HostState.budget)
        code.word(Int32(block.count))
        colds.append(.start(jump: code.jump(if: 8), flags: flags, isCounted: true))
    }

    // MARK: Flags

    /// Keeps the flags, if somebody reads them, from what follows.
    mutating func saveFlags() {
        guard live != 0, flags == .native else { return }
        let scratch = HostFrame.slot(HostFrame.scratch)
        code.store(scratch, HostRegister.rax)
        code.bytes(0x9F, 0x0F, 0x90, 0xC0)  // lahf; seto al
        code.store(HostFrame.slot(HostFrame.flags), HostRegister.rax, size: 4)
        code.load(HostRegister.rax, scratch)
        flags = .frame
    }

    /// Brings them back to EFLAGS.
    mutating func restoreFlags() {
        guard flags == .frame else { return }
        let scratch = HostFrame.slot(HostFrame.scratch)
        code.store(scratch, HostRegister.rax)
        code.load(HostRegister.rax, HostFrame.slot(HostFrame.flags), size: 4)
        code.bytes(0x04, 0x7F, 0x9E)  // add al, 127; sahf
        code.load(HostRegister.rax, scratch)
        flags = .native
    }

    /// To be called right before the instruction that stands for an operation.
    ///
    /// - Parameter mayWrite: it may also leave flags alone that it writes.
    mutating func prepareFlags(_ use: FlagUse, mayWrite: Bool = false) {
        let isPartial = use.writes != 0 && liveAfter & ~use.writes != 0
        if use.reads != 0 || isPartial || mayWrite {
            restoreFlags()
        } else if use.writes != 0 {
            flags = .native
        }
    }

    // MARK: The interpreter

    /// What R9 tells the helper.
    private func packed(_ number: Int) -> UInt64 {
        UInt64(block.address) | UInt64(number) << 48
    }

    /// Has the interpreter execute the operation here, not only where something is out of the way.
    private mutating func callHelper(_ op: OperationPointer) {
        code.set(HostRegister.first, to: packed(index))
        let stub =
            live == 0
            ? stubs.helperWithoutFlags
            : flags == .frame ? stubs.helperWithFlagsInFrame : stubs.helper
        code.call(stub, base: base)
        flags = .native
    }

    /// What the code does not do itself from `jump` on is the interpreter's. Call `resume` where
    /// it goes on.
    mutating func orInterpret(_ jump: Int) {
        pending.append((jump, live == 0 ? nil : flags))
    }

    private var pending: [(jump: Int, flags: FlagPlace?)] = []

    /// The operation is complete here.
    mutating func resume() {
        for (jump, flags) in pending {
            colds.append(.helper(jump: jump, op: index, flags: flags, resume: code.count))
        }
        pending.removeAll(keepingCapacity: true)
    }

    // MARK: Exits

    /// Goes to the following block, if it is known.
    mutating func exit(_ edge: BlockExit.Edge) {
        restoreFlags()
        let place = code.jump()
        noteExit(place, edge)
    }

    mutating func exit(if condition: UInt8) {
        restoreFlags()
        let place = code.jump(if: condition)
        noteExit(place, .taken)
    }

    private mutating func noteExit(_ place: Int, _ edge: BlockExit.Edge) {
        if edge == .taken { takenJump = base + place } else { nextJump = base + place }
        colds.append(.exit(jump: place, edge: edge == .taken ? 2 : 1))
    }

    private mutating func finish() {
        for cold in colds {
            switch cold {
            case .helper(let jump, let op, let flags, let resume):
                code.land(jump)
                code.set(HostRegister.first, to: packed(op))
                switch flags {
                case .native?: code.call(stubs.helper, base: base)
                case .frame?: code.call(stubs.helperWithFlagsInFrame, base: base)
                case nil: code.call(stubs.helperWithoutFlags, base: base)
                }
                code.jump(to: base + resume, base: base)
            case .exit(let jump, let edge):
                code.land(jump)
                code.set(HostRegister.first, to: packed(Int(edge)))
                code.jump(to: stubs.leave, base: base)
            case .start(let jump, let flags, let isCounted):
                code.land(jump)
                if isCounted {
                    code.memory(0x81, size: 8, reg: 0, HostState.budget)
                    code.word(Int32(block.count))
                }
                code.set(HostRegister.first, to: packed(3))
                code.jump(
                    to: flags == .frame ? stubs.leaveWithFlagsInFrame : stubs.leave, base: base)
            }
        }
    }
}
