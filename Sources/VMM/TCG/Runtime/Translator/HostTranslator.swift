internal import Core

/// The translated code of one CPU: the arena and what leads into it.
// SAFETY: stubs and code live as long as the arena, which this object has.
@safe final class HostTranslator {
    let arena: HostArena
    private let stubs: HostStubs
    /// Leads into translated code.
    let entry: HostStubs.Enter
    /// `nil` if perf is not told.
    private let perfMap: PerfMap?
    /// `nil` if nobody wants to read the code.
    private let listing: CodeFile?
    /// What translated code is for, by its place; `nil` if nobody will ask.
    private var marks: [UInt32: [CodeMark]]?
    private(set) var blockCount = 0

    /// Runs in the interpreter before a block is translated.
    static let usualThreshold: Int32 = 16

    /// - Parameters:
    ///   - capacity: bytes for code. Memory is taken as it is added.
    ///   - hasAVX: guests have YMM registers.
    ///   - files: are told what is translated.
    ///   - keepsMarks: for `marks(of:)`.
    init(
        capacity: Int, hasAVX: Bool, files: TCGFiles = TCGFiles(), keepsMarks: Bool = false
    ) throws(SystemError) {
        listing = files.listing
        marks = keepsMarks ? [:] : nil
        perfMap = files.perfMap.map { PerfMap(file: $0) }
        arena = try HostArena(
            capacity: capacity, coldCapacity: capacity / 8 * 5, isAnonymous: perfMap != nil)
        stubs = unsafe HostStubs(arena, hasAVX: hasAVX, helper: hostHelper, fill: hostFill)
        let address = arena.address(stubs.enter)
        // SAFETY: the stub follows the C convention, and lives as long as the arena.
        unsafe entry = unsafeBitCast(address, to: HostStubs.Enter.self)
        perfMap?.note(stubs, arena)
    }

    /// Writes a block's code, with those that mostly follow it, if there is room.
    /// - Parameter threshold: runs in the interpreter before a block is translated.
    /// - Returns: whether there was room in the current region.
    func translate(_ block: Block, threshold: Int32) -> Bool {
        let trace = HostTrace(block, threshold: threshold)
        var translation = HostBlock(
            trace, arena, stubs, keepsMarks: listing != nil || marks != nil)
        translation.run()
        guard !translation.isFull else { return false }
        let (hotStart, rareStart) = (translation.nativeEntry, arena.cold.position)
        for (exit, place) in zip(translation.exits, translation.exitPlaces) {
            unsafe arena.writable(place).storeBytes(of: exit, as: HostExit.self)
        }
        let header = unsafe block.header
        unsafe header.pointee.host = arena.address(translation.frameEntry)
        unsafe header.pointee.nativeEntry = UInt32(hotStart)
        let (end, rareEnd) = (translation.end, translation.rareEnd)
        unsafe header.pointee.hostSize = UInt32(end - hotStart)
        unsafe header.pointee.rarePlace = UInt32(rareStart)
        unsafe header.pointee.rareSize = UInt32(rareEnd - rareStart)
        unsafe header.pointee.hostCheck = arena.writable(translation.checkPlace)
        unsafe header.pointee.exits = UInt32(translation.exitPlaces.first ?? 0)
        unsafe header.pointee.exitCount = UInt8(translation.exits.count)
        unsafe header.pointee.movingTable = UInt32(translation.movingTable)
        unsafe header.pointee.movingCount = UInt16(translation.movingPlaces.count)
        unsafe header.pointee.heat = -1
        // The others in the code were looked up in this one.
        unsafe header.pointee.otherGenerations.removeAll()
        unsafe block.setTrace(trace, arena.writable(translation.partsPlace))
        arena.commit(end, cold: rareEnd)
        unsafe perfMap?.note(header, arena)
        blockCount += 1
        note(trace, translation.marks)
        return true
    }

    /// Passes on what the code that has just been written is for.
    private func note(_ trace: HostTrace, _ marks: [CodeMark]) {
        guard let header = unsafe trace.blocks.first?.header else { return }
        unsafe self.marks?[header.pointee.nativeEntry] = marks
        guard let listing else { return }
        var text = CodeListing()
        text.add(trace.blocks)
        unsafe text.add(codeOf: header, marks, arena)
        listing.append(text.text.text)
    }

    /// What a block's code is for, as far as that is kept.
    func marks(of block: Block) -> [CodeMark] {
        unsafe marks?[block.header.pointee.nativeEntry] ?? []
    }

    /// The exit with a name: its offset in the arena.
    func exit(_ name: UInt32) -> UnsafeMutablePointer<HostExit> {
        unsafe arena.writable(Int(name)).assumingMemoryBound(to: HostExit.self)
    }

    /// The name of the exit with an address.
    func name(_ address: UInt) -> UInt32 {
        unsafe UInt32(truncatingIfNeeded: address &- UInt(bitPattern: arena.writable(0)))
    }

    /// Makes a jump go straight to a block's code.
    func connect(_ jump: HostJump, _ target: UnsafePointer<BlockHeader>) {
        guard jump.place != 0 else { return }
        unsafe arena.patch(
            Int(jump.place),
            to: jump.hasNativeFlags
                ? Int(target.pointee.nativeEntry) : arena.offset(of: target.pointee.host))
    }

    /// Makes it leave translated code, as it did at first.
    func disconnect(_ jump: HostJump) {
        guard jump.place != 0 else { return }
        arena.patch(Int(jump.place), to: Int(jump.exit))
    }

    /// Moves the addresses in the code of a block that has moved.
    func move(_ header: UnsafePointer<BlockHeader>, by distance: UInt64) {
        // SAFETY: the list is in the arena, and names places of eight bytes there.
        let list = unsafe arena.writable(Int(header.pointee.movingTable))
        for index in 0..<(unsafe Int(header.pointee.movingCount)) {
            let place = unsafe list.loadUnaligned(fromByteOffset: index * 4, as: UInt32.self)
            let address = unsafe arena.writable(Int(place))
            let old = unsafe address.loadUnaligned(as: UInt64.self)
            unsafe address.storeBytes(of: old &+ distance, as: UInt64.self)
        }
        unsafe perfMap?.note(header, arena)
    }

    /// Whether a block's code reads no flags that were there before.
    func ignoresFlags(_ block: Block) -> Bool {
        let header = unsafe block.header.pointee
        return arena.offset(of: header.host) == Int(header.nativeEntry)
    }

    /// A block's code, where it is executed: what runs often, or what runs rarely.
    func code(of block: Block, isRare: Bool = false) -> UnsafeRawBufferPointer {
        let header = unsafe block.header.pointee
        let place = isRare ? header.rarePlace : header.nativeEntry
        // SAFETY: the code lies in the arena.
        let start = unsafe UnsafeRawPointer(bitPattern: arena.address(Int(place)))
        return unsafe UnsafeRawBufferPointer(
            start: start, count: Int(isRare ? header.rareSize : header.hostSize))
    }

    /// Which region a block's code is in.
    func region(of block: Block) -> Int {
        arena.region(of: unsafe Int(block.header.pointee.nativeEntry))
    }

    /// Goes on in the next region, whose code nobody reaches any more.
    func advance() {
        arena.advance()
        let region = arena.hot.current
        if let kept = marks {
            marks = kept.filter { arena.region(of: Int($0.key)) != region }
        }
    }

    func removeAll() {
        arena.removeAll()
        if marks != nil { marks = [:] }
        blockCount = 0
    }
}

/// What translated code calls: see `CPU.interpret`.
let hostHelper: HostStubs.Helper = { state, packed, hasFlags in
    // SAFETY: translated code passes its own CPU's state.
    let cpu = unsafe CPU(state.assumingMemoryBound(to: VCPUState.self))
    return cpu.interpret(packed, hasFlags: hasFlags != 0) ? 0 : 1
}

/// What it calls where its look into the soft TLB fails: see `CPU.reach`.
let hostFill: HostStubs.Fill = { state, linear, access in
    // SAFETY: translated code passes its own CPU's state.
    let cpu = unsafe CPU(state.assumingMemoryBound(to: VCPUState.self))
    return cpu.reach(linear, HostAccess(rawValue: access))
}
