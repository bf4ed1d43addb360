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
        /// Has the interpreter execute `count` operations from `op` on, unless filling an entry of
        /// the soft TLB is enough.
        case helper(
            jump: Int, op: Int, count: Int, flags: FlagPlace?, resume: Int, fill: Fill?)
        /// Leaves by one of the block's exits.
        case exit(jump: Int, edge: UInt, flags: FlagPlace)
        /// Leaves before the block has begun.
        case start(jump: Int, isCounted: Bool)
        /// Brings the guest's vector registers, or leaves the block to the interpreter.
        case vectors(jump: Int, stub: Int, resume: Int)
    }

    let block: Block
    let stubs: HostStubs
    var code: HostAssembler
    /// What runs rarely: the arena's other part.
    private var rare: HostAssembler
    var colds: [Cold] = []
    var flags = FlagPlace.native
    /// Flags that are read after the current operation, or by it.
    var live: UInt8 = 0
    var liveAfter: UInt8 = 0
    /// The current operation's number.
    var index = 0
    /// The ways in: with the flags in EFLAGS, and in the frame.
    private(set) var frameEntry = 0
    private(set) var nativeEntry = 0
    /// Where the block's generation is in the code.
    private(set) var checkPlace = 0
    /// The jumps to the blocks that follow, and where the flags are there. Those of the code that
    /// looks into the TLB for each access are apart, where there are both.
    private(set) var exits = Exits()
    private(set) var plainExits = Exits()

    /// Where the code has addresses that move with the block, and where they are listed.
    private(set) var movingPlaces: [Int] = []
    private(set) var movingTable = 0

    struct Exits {
        var next: (place: Int, flags: FlagPlace) = (0, .frame)
        var taken: (place: Int, flags: FlagPlace) = (0, .frame)
    }

    // Accesses to memory; see HostBlock+Access.swift.

    /// The host address of the memory operand that was reached last.
    var operand = HostMemory(HostRegister.first)
    /// The `TLBMode` in force.
    var accessMode: UInt8
    /// What has been found out while the block was written for the first time.
    var events: [AccessEvent] = []
    var plainPlaces: [Int] = []
    /// `nil` that first time.
    var plan: AccessPlan?
    var accessCount = 0
    /// The group whose host address is in R9.
    var held: Int?

    init(_ block: Block, _ arena: HostArena, _ stubs: HostStubs) {
        self.block = block
        self.stubs = stubs
        code = HostAssembler(arena)
        rare = HostAssembler(arena, isCold: true)
        accessMode = Self.accessMode(block)
    }

    private static func accessMode(_ block: Block) -> UInt8 {
        UInt8(block.key >> ModeKey.accessModeShift & 3)
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
        let vectors = neededVectors(count)
        planAccesses(count, liveBefore, uses, vectors)
        write(count, liveBefore, uses, vectors)
        swap(&code, &rare)
        finish()
        movingTable = code.position
        for place in movingPlaces { code.word(Int32(place)) }
        swap(&code, &rare)
    }

    var isFull: Bool { code.isFull || rare.isFull }
    /// The end of the code in each of the arena's parts.
    var ends: (usual: Int, rare: Int) { (code.position, rare.position) }

    /// Writes the code that looks into the TLB for each access, if some of them can share a look.
    private mutating func planAccesses(
        _ count: Int, _ liveBefore: [UInt8], _ uses: [FlagUse], _ vectors: UInt16
    ) {
        let start = rare.position
        swap(&code, &rare)
        defer { swap(&code, &rare) }
        write(count, liveBefore, uses, vectors)
        let plan = AccessPlan(events)
        guard !plan.groups.isEmpty else {
            code.goBack(to: start)
            movingPlaces.removeAll(keepingCapacity: true)
            return
        }
        finish()
        self.plan = plan
        plainExits = exits
    }

    /// Writes the operations.
    private mutating func write(
        _ count: Int, _ liveBefore: [UInt8], _ uses: [FlagUse], _ vectors: UInt16
    ) {
        (index, accessCount, held) = (0, 0, nil)
        accessMode = Self.accessMode(block)
        flags = .native
        colds.removeAll(keepingCapacity: true)
        begin(isLive: liveBefore[0] != 0, needs: vectors)
        while index < count {
            live = liveBefore[index]
            liveAfter = liveBefore[index + 1]
            runLength = stackRun(count)
            if !mayKeepHeld(operation(index)) { held = nil }
            if runLength > 1 {
                emitStackRun()
                for next in index..<index + runLength { noteEffects(operation(next)) }
            } else if emit(operation(index), uses[index]) {
                noteEffects(operation(index))
            } else {
                callHelper()
                events.append(.barrier)
            }
            index += runLength
        }
    }

    // MARK: The beginning

    /// Looks whether the block may run, and counts its instructions.
    /// - Parameter vectors: the block needs these of the guest's registers (`HostFrame.Vectors`).
    private mutating func begin(isLive: Bool, needs vectors: UInt16) {
        live = isLive ? FlagUse.all : 0
        nativeEntry = code.position
        saveFlags()
        flags = .frame
        frameEntry = code.position
        code.memory(0x81, size: 4, reg: 7, HostFrame.slot(HostFrame.check))  // cmp
        checkPlace = code.position
        code.word(Int32(bitPattern: block.generation))
        colds.append(.start(jump: code.jump(if: 5), isCounted: false))
        // Those of SSE come with the others.
        typealias Vectors = HostFrame.Vectors
        if vectors & Vectors.x87 != 0 { require(Vectors.x87, stubs.loadX87) }
        if vectors & Vectors.avx != 0 { require(Vectors.avx, stubs.loadUpperHalves) }
        if vectors == Vectors.sse { require(Vectors.sse, stubs.loadVectors) }
        code.memory(0x83, size: 8, reg: 5, HostFrame.slot(HostFrame.budget))  // sub
        code.byte(UInt8(block.count))
        colds.append(.start(jump: code.jump(if: 8), isCounted: true))
    }

    /// Has a stub bring registers that are not there.
    private mutating func require(_ vectors: UInt16, _ stub: Int) {
        HostStubs.testVectors(&code, vectors)
        colds.append(.vectors(jump: code.jump(if: 4), stub: stub, resume: code.position))
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
        held = nil
        code.set(HostRegister.first, to: packed(number))
        let stub =
            switch flags {
            case .native?: stubs.helper
            case .frame?: stubs.helperWithFlagsInFrame
            case nil: stubs.helperWithoutFlags
            }
        code.call(stub)
    }

    /// What the code does not do itself from `jump` on is the interpreter's. Call `resume` where
    /// it goes on.
    mutating func orInterpret(_ jump: Int) {
        held = nil
        pending.append((jump, live == 0 ? nil : flags, nil))
    }

    /// The same where a look into the soft TLB has failed. The flags are in the frame.
    mutating func orFill(_ jump: Int, _ fill: Fill) {
        pending.append((jump, live == 0 ? nil : flags, fill))
    }

    private var pending: [(jump: Int, flags: FlagPlace?, fill: Fill?)] = []
    /// How many operations are one piece of code.
    var runLength = 1

    /// The operation is complete here.
    mutating func resume() {
        // The helper comes back to here, and changes R9.
        if !pending.isEmpty { held = nil }
        for (jump, flags, fill) in pending {
            colds.append(
                .helper(
                    jump: jump, op: index, count: runLength, flags: flags, resume: code.position,
                    fill: fill))
        }
        pending.removeAll(keepingCapacity: true)
    }

    /// Sets a register to an address that was found from RIP.
    mutating func setMoving(_ register: UInt8, to address: UInt64) {
        guard unsafe block.header.pointee.canMove else {
            return code.set(register, to: address)
        }
        code.setLong(register, to: address)
        movingPlaces.append(code.position - 8)
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
            exits.taken = (place, flags)
        } else {
            exits.next = (place, flags)
        }
        colds.append(.exit(jump: place, edge: edge == .taken ? 2 : 1, flags: flags))
    }

    private mutating func finish() {
        for cold in colds {
            switch cold {
            case .helper(let jump, let op, let count, let flags, let resume, let fill):
                code.land(jump)
                if let fill { self.fill(fill, operation(op)) }
                callHelper(op, flags)
                for next in 1..<count { callHelper(op + next, flags == nil ? nil : .frame) }
                code.jump(to: resume)
            case .exit(let jump, let edge, let flags):
                code.land(jump)
                leave(Int(edge), flags)
            case .start(let jump, let isCounted):
                code.land(jump)
                if isCounted {
                    code.memory(0x83, size: 8, reg: 0, HostFrame.slot(HostFrame.budget))
                    code.byte(UInt8(block.count))
                }
                leave(3, .frame)
            case .vectors(let jump, let stub, let resume):
                code.land(jump)
                code.call(stub)
                code.registers(0x85, size: 4, reg: 9, rm: 9)  // test r9d, r9d
                code.jump(if: 4, to: resume)
                leave(4, .frame)
            }
        }
    }

    private mutating func leave(_ reason: Int, _ flags: FlagPlace) {
        code.set(HostRegister.first, to: packed(reason))
        code.jump(to: flags == .frame ? stubs.leaveWithFlagsInFrame : stubs.leave)
    }
}
