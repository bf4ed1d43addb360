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
        /// Has the interpreter execute `count` operations from `op` on.
        case helper(jump: Int, op: Int, count: Int, flags: FlagPlace?, resume: Int)
        /// Leaves by one of the block's exits.
        case exit(jump: Int, edge: UInt, flags: FlagPlace)
        /// Leaves before the block has begun.
        case start(jump: Int, isCounted: Bool)
        /// Brings the guest's vector registers, or leaves the block to the interpreter.
        case vectors(jump: Int, stub: Int, resume: Int)
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
    /// The ways in: with the flags in EFLAGS, at `base`, and in the frame.
    private(set) var frameEntry = 0
    /// Where the block's generation is in the code.
    private(set) var checkPlace = 0
    /// The jumps to the blocks that follow, and where the flags are there.
    private(set) var nextJump: (place: Int, flags: FlagPlace) = (0, .frame)
    private(set) var takenJump: (place: Int, flags: FlagPlace) = (0, .frame)

    init(_ block: Block, _ arena: HostArena, _ stubs: HostStubs) {
        self.block = block
        self.stubs = stubs
        base = arena.used
        code = HostAssembler(arena)
    }

    // SAFETY: the block's operations, as many as its header says.
    func operation(_ index: Int) -> OperationPointer {
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
        begin(isLive: liveBefore[0] != 0, needs: neededVectors(count))
        while index < count {
            live = liveBefore[index]
            liveAfter = liveBefore[index + 1]
            runLength = stackRun(count)
            if runLength > 1 {
                emitStackRun()
            } else if !emit(operation(index), uses[index]) {
                callHelper()
            }
            index += runLength
        }
        finish()
    }

    // MARK: The beginning

    /// Looks whether the block may run, and counts its instructions.
    /// - Parameter vectors: the block needs these of the guest's registers (`HostFrame.Vectors`).
    private mutating func begin(isLive: Bool, needs vectors: UInt16) {
        live = isLive ? FlagUse.all : 0
        saveFlags()
        flags = .frame
        frameEntry = base + code.count
        code.memory(0x81, size: 4, reg: 7, HostState.check)  // cmp [check], generation
        checkPlace = base + code.count
        code.word(Int32(bitPattern: block.generation))
        colds.append(.start(jump: code.jump(if: 5), isCounted: false))
        // Those of SSE come with the others.
        typealias Vectors = HostFrame.Vectors
        if vectors & Vectors.x87 != 0 { require(Vectors.x87, stubs.loadX87) }
        if vectors & Vectors.avx != 0 { require(Vectors.avx, stubs.loadUpperHalves) }
        if vectors == Vectors.sse { require(Vectors.sse, stubs.loadVectors) }
        code.memory(0x81, size: 8, reg: 5, HostState.budget)
        code.word(Int32(block.count))
        colds.append(.start(jump: code.jump(if: 8), isCounted: true))
    }

    /// Has a stub bring registers that are not there.
    private mutating func require(_ vectors: UInt16, _ stub: Int) {
        HostStubs.testVectors(&code, vectors)
        colds.append(.vectors(jump: code.jump(if: 4), stub: stub, resume: code.count))
    }

    // MARK: Flags

    /// Keeps the flags, if somebody reads them, from what follows. Takes R10.
    mutating func saveFlags() {
        guard live != 0, flags == .native else { return }
        code.move(HostRegister.second, HostRegister.rax)
        code.bytes(0x9F, 0x0F, 0x90, 0xC0)  // lahf; seto al
        code.store(HostFrame.slot(HostFrame.flags), HostRegister.rax, size: 4)
        code.move(HostRegister.rax, HostRegister.second)
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
    private mutating func callHelper() {
        callHelper(index, live == 0 ? nil : flags)
        flags = .native
    }

    private mutating func callHelper(_ number: Int, _ flags: FlagPlace?) {
        code.set(HostRegister.first, to: packed(number))
        let stub =
            switch flags {
            case .native?: stubs.helper
            case .frame?: stubs.helperWithFlagsInFrame
            case nil: stubs.helperWithoutFlags
            }
        code.call(stub, base: base)
    }

    /// What the code does not do itself from `jump` on is the interpreter's. Call `resume` where
    /// it goes on.
    mutating func orInterpret(_ jump: Int) {
        pending.append((jump, live == 0 ? nil : flags))
    }

    private var pending: [(jump: Int, flags: FlagPlace?)] = []
    /// How many operations are one piece of code.
    var runLength = 1

    /// The operation is complete here.
    mutating func resume() {
        for (jump, flags) in pending {
            colds.append(
                .helper(
                    jump: jump, op: index, count: runLength, flags: flags, resume: code.count))
        }
        pending.removeAll(keepingCapacity: true)
    }

    // MARK: Exits

    /// Goes to the following block, if it is known.
    mutating func exit(_ edge: BlockExit.Edge) { noteExit(code.jump(), edge) }

    mutating func exit(if condition: UInt8) {
        restoreFlags()
        let place = code.jump(if: condition)
        noteExit(place, .taken)
    }

    private mutating func noteExit(_ place: Int, _ edge: BlockExit.Edge) {
        if edge == .taken {
            takenJump = (base + place, flags)
        } else {
            nextJump = (base + place, flags)
        }
        colds.append(.exit(jump: place, edge: edge == .taken ? 2 : 1, flags: flags))
    }

    private mutating func finish() {
        for cold in colds {
            switch cold {
            case .helper(let jump, let op, let count, let flags, let resume):
                code.land(jump)
                callHelper(op, flags)
                for next in 1..<count { callHelper(op + next, flags == nil ? nil : .frame) }
                code.jump(to: base + resume, base: base)
            case .exit(let jump, let edge, let flags):
                code.land(jump)
                leave(Int(edge), flags)
            case .start(let jump, let isCounted):
                code.land(jump)
                if isCounted {
                    code.memory(0x81, size: 8, reg: 0, HostState.budget)
                    code.word(Int32(block.count))
                }
                leave(3, .frame)
            case .vectors(let jump, let stub, let resume):
                code.land(jump)
                code.call(stub, base: base)
                code.registers(0x85, size: 4, reg: 9, rm: 9)  // test r9d, r9d
                code.jump(if: 4, to: base + resume, base: base)
                leave(4, .frame)
            }
        }
    }

    private mutating func leave(_ reason: Int, _ flags: FlagPlace) {
        code.set(HostRegister.first, to: packed(reason))
        code.jump(to: flags == .frame ? stubs.leaveWithFlagsInFrame : stubs.leave, base: base)
    }
}
