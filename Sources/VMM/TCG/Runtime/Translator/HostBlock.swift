/// A block, with those that mostly follow it, on its way to host code.
///
/// Guest registers are in host registers of the same name but for five (see `HostRegister`), and
/// the guest's arithmetic flags are the host's wherever something may still read them; what
/// destroys them moves them to the frame before, and they come back when they are needed. An
/// access to memory looks into the soft TLB; what that cannot do, and every operation without
/// code here, is the interpreter's.
struct HostBlock {
    /// Where the arithmetic flags are.
    enum FlagPlace { case native, frame }

    let trace: HostTrace
    /// The one that is being written, its number, and how many instructions those behind it have.
    private(set) var block: Block
    private var blockNumber = 0
    private(set) var countBehind = 0
    /// The operations of all.
    private var operations: [OperationPointer] = []
    /// Numbers of each block's last one.
    private var ends: [Int] = []
    let arena: HostArena
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
    /// Where in the arena there is room for the addresses of the other blocks.
    private(set) var partsPlace = 0
    /// Where the block's generation is in the code.
    private(set) var checkPlace = 0
    /// The ways out, in the order in which they were written.
    var exits: [HostExit] = []
    /// Where in the arena each of them is to be.
    var exitPlaces: [Int] = []
    var exitCount = 0
    /// Where the code has addresses that move with the block, and where they are listed.
    private(set) var movingPlaces: [Int] = []
    private(set) var movingTable = 0
    /// The code that looks into the TLB for each access is being written.
    private(set) var isPlain = false
    /// What `resume` is to see to.
    var pending: [(jump: Int, flags: FlagPlace?, fill: Fill?)] = []
    /// How many operations are one piece of code.
    var runLength = 1

    // Accesses to memory; see HostBlock+Access.swift.

    /// What the code is for, if that is kept, and the first mark of the code that is being written.
    let keepsMarks: Bool
    var marks: [CodeMark] = []
    private(set) var markStart = 0
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

    init(_ trace: HostTrace, _ arena: HostArena, _ stubs: HostStubs, keepsMarks: Bool = false) {
        self.keepsMarks = keepsMarks
        self.trace = trace
        block = trace.blocks[0]
        self.arena = arena
        self.stubs = stubs
        code = HostAssembler(arena)
        rare = HostAssembler(arena, isCold: true)
        accessMode = Self.accessMode(trace.blocks[0])
        for block in trace.blocks {
            for index in 0..<(unsafe Int(block.header.pointee.operationCount)) {
                // SAFETY: the block's operations, as many as its header says.
                operations.append(unsafe OperationPointer(block.operations.pointer + index))
            }
            ends.append(operations.count - 1)
        }
    }

    /// The `TLBMode` in which a block begins.
    static func accessMode(_ block: Block) -> UInt8 {
        UInt8(block.key >> ModeKey.accessModeShift & 3)
    }

    func operation(_ index: Int) -> OperationPointer { operations[index] }

    var operationCount: Int { operations.count }

    /// Which way leads to the next block from the operation that is being written, if it is a
    /// block's last one but not the trace's.
    var edgeInside: BlockExit.Edge? {
        guard index == ends[blockNumber], blockNumber < trace.edges.count else { return nil }
        return trace.edges[blockNumber]
    }

    /// Writes all of it.
    mutating func run() {
        let count = operations.count
        // Behind the block all flags may be read, and wherever it is left before.
        var liveBefore = [UInt8](repeating: FlagUse.all, count: count + 1)
        var uses: [FlagUse] = []
        for index in 0..<count { uses.append(FlagUse(operation(index))) }
        for index in stride(from: count - 1, through: 0, by: -1) {
            if operation(index).code.isConditionalJump { continue }
            liveBefore[index] =
                liveBefore[index + 1] & ~uses[index].writes | uses[index].reads
        }
        planAccesses(liveBefore, uses)
        write(liveBefore, uses)
        swap(&code, &rare)
        finish()
        reserveParts()
        movingTable = code.position
        for place in movingPlaces { code.word(Int32(place)) }
        swap(&code, &rare)
    }

    /// Room for the list of the trace's blocks.
    private mutating func reserveParts() {
        mark(CodeMark.data)
        code.align(to: 8)
        partsPlace = code.position
        for _ in 1..<trace.blocks.count { code.long(0) }
    }

    var isFull: Bool { code.isFull || rare.isFull }
    /// The end of the code in each of the arena's parts.
    var end: Int { code.position }
    var rareEnd: Int { rare.position }

    /// Writes the code that looks into the TLB for each access, if some of them can share a look.
    private mutating func planAccesses(_ liveBefore: [UInt8], _ uses: [FlagUse]) {
        let start = rare.position
        swap(&code, &rare)
        isPlain = true
        defer {
            swap(&code, &rare)
            isPlain = false
        }
        write(liveBefore, uses)
        let plan = AccessPlan(events)
        guard !plan.groups.isEmpty else {
            code.goBack(to: start)
            movingPlaces.removeAll(keepingCapacity: true)
            exits.removeAll(keepingCapacity: true)
            marks.removeAll()
            return
        }
        finish()
        self.plan = plan
    }

    /// Writes the operations.
    private mutating func write(_ liveBefore: [UInt8], _ uses: [FlagUse]) {
        (index, accessCount, exitCount, held) = (0, 0, 0, nil)
        accessMode = Self.accessMode(trace.blocks[0])
        flags = .native
        colds.removeAll(keepingCapacity: true)
        markStart = marks.count
        mark(CodeMark.entry)
        enter(0)
        begin(isLive: liveBefore[0] != 0)
        while index < operations.count {
            if index > ends[blockNumber] { enter(blockNumber + 1) }
            live = liveBefore[index]
            liveAfter = liveBefore[index + 1]
            runLength = stackRun(operations.count)
            mark(index)
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

    private mutating func enter(_ number: Int) {
        (block, blockNumber) = (trace.blocks[number], number)
        countBehind = (number == 0 ? trace.count : countBehind) - Int(block.count)
    }

    // MARK: The beginning

    /// Looks whether the block may run, and counts its instructions.
    private mutating func begin(isLive: Bool) {
        let vectors = Self.neededVectors(block)
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
        code.byte(UInt8(trace.count))
        colds.append(.start(jump: code.jump(if: 8), isCounted: true))
    }

    /// Has a stub bring registers that are not there.
    private mutating func require(_ vectors: UInt16, _ stub: Int) {
        HostStubs.testVectors(&code, vectors)
        colds.append(.vectors(jump: code.jump(if: 4), stub: stub, resume: code.position))
    }

    /// Sets a register to an address that was found from RIP.
    mutating func setMoving(_ register: UInt8, to address: UInt64) {
        guard unsafe block.header.pointee.canMove else {
            return code.set(register, to: address)
        }
        code.setLong(register, to: address)
        movingPlaces.append(code.position - 8)
    }

    // MARK: Flags

    /// Keeps the flags, if somebody reads them, from what follows. Takes R10.
    mutating func saveFlags() {
        guard live != 0, flags == .native else { return }
        code.move(HostRegister.second, HostRegister.rax)
        code.sequence(0x9F, 0x0F, 0x90, 0xC0)  // lahf; seto al
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
}
