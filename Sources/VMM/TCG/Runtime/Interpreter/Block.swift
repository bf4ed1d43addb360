/// A decoded block.
// SAFETY: headers lie in the code cache's arena, which lives as long as the CPU; a block is
// overwritten only after its region has been emptied, which happens between blocks.
@safe struct Block {
    let header: UnsafeMutablePointer<BlockHeader>

    @inline(__always)
    init(_ header: UnsafeMutablePointer<BlockHeader>) { unsafe self.header = header }

    @inline(__always)
    init?(address: UInt) {
        guard let header = unsafe UnsafeMutablePointer<BlockHeader>(bitPattern: address) else {
            return nil
        }
        unsafe self.header = header
    }

    @inline(__always) var address: UInt { UInt(bitPattern: unsafe header) }
    @inline(__always) var rip: UInt64 { unsafe header.pointee.rip }
    @inline(__always) var count: UInt16 { unsafe header.pointee.count }
    @inline(__always) var key: UInt32 { unsafe header.pointee.key }
    var isTransient: Bool { unsafe header.pointee.isTransient }
    @inline(__always) var generation: UInt32 { unsafe header.pointee.generation }

    /// Whether a look for a block with these finds it.
    @inline(__always)
    func isAt(physical: UInt64, linear: UInt64, key: UInt32) -> Bool {
        let header = unsafe header
        return unsafe header.pointee.linear == linear && header.pointee.physical == physical
            && header.pointee.key == key
    }

    /// One run less until the block is translated.
    @inline(__always)
    func coolDown() {
        let heat = unsafe header.pointee.heat
        if heat >= 0 && heat != BlockHeader.never { unsafe header.pointee.heat = heat - 1 }
    }

    /// The block may run in this generation, but not its translated code.
    /// - Parameter others: the generations that the guest may come back to.
    func renew(_ generation: UInt32, others: GenerationSet) {
        let old = unsafe header.pointee.generation
        if old == generation { return }
        // Its code may not have been looked at then.
        if others.contains(old), isHostCurrent(old) {
            unsafe header.pointee.otherGenerations.insert(old)
        }
        unsafe header.pointee.generation = generation
        unsafe header.pointee.nextBlock = 0
        unsafe header.pointee.takenBlock = 0
    }

    /// Whether the block and its translated code are as they were in a generation that the guest has
    /// come back to.
    @inline(__always)
    func isKnown(in generation: UInt32) -> Bool {
        unsafe header.pointee.otherGenerations.contains(generation)
    }

    /// Whether it was looked up at this address in one of some generations, as far as it keeps them.
    func isKnown(where isRight: (UInt32) -> Bool) -> Bool {
        unsafe isRight(header.pointee.generation)
            || header.pointee.otherGenerations.contains(where: isRight)
    }

    /// Both may run in such a generation.
    func comeBack(_ generation: UInt32, others: GenerationSet) {
        unsafe header.pointee.otherGenerations.remove(generation)
        renew(generation, others: others)
        setHostGeneration(generation)
    }

    /// Whether a generation is one in which it may run.
    func mayRun(in isAlive: (UInt32) -> Bool) -> Bool {
        if isKnown(where: isAlive) { return true }
        guard let check = unsafe header.pointee.hostCheck else { return false }
        return unsafe isAlive(check.load(as: UInt32.self))
    }

    /// The translated code, if there is some, may run in this generation.
    func setHostGeneration(_ generation: UInt32) {
        unsafe header.pointee.hostCheck?.storeBytes(of: generation, as: UInt32.self)
    }

    func isHostCurrent(_ generation: UInt32) -> Bool {
        guard let check = unsafe header.pointee.hostCheck else { return true }
        return unsafe check.load(as: UInt32.self) == generation
    }

    /// There is no translated code any more; nothing leads there.
    /// - Parameter threshold: runs in the interpreter before there is some again.
    func forgetCode(threshold: Int32) {
        unsafe (header.pointee.host, header.pointee.nativeEntry) = (0, 0)
        unsafe (header.pointee.hostSize, header.pointee.rarePlace) = (0, 0)
        unsafe header.pointee.rareSize = 0
        unsafe header.pointee.hostCheck = nil
        unsafe (header.pointee.exits, header.pointee.exitCount) = (0, 0)
        unsafe (header.pointee.movingTable, header.pointee.movingCount) = (0, 0)
        unsafe (header.pointee.parts, header.pointee.partCount) = (nil, 0)
        unsafe header.pointee.hostCount = 0
        noteRange()
        if unsafe !header.pointee.isDead { unsafe header.pointee.heat = threshold }
    }

    /// Notes the bytes that the block itself depends on.
    func noteRange() {
        let start = unsafe UInt16(truncatingIfNeeded: header.pointee.physical & 0xFFF)
        unsafe header.pointee.codeStart = start
        unsafe header.pointee.codeEnd = min(4096, start + header.pointee.byteCount)
    }

    // MARK: Other blocks in the translated code

    // SAFETY: `place` has room for their addresses.
    func setTrace(_ trace: HostTrace, _ place: UnsafeMutableRawPointer) {
        let parts = unsafe place.assumingMemoryBound(to: UInt.self)
        for (index, part) in trace.blocks.dropFirst().enumerated() {
            unsafe parts[index] = part.address
        }
        unsafe header.pointee.parts = parts
        unsafe header.pointee.partCount = UInt8(trace.blocks.count - 1)
        unsafe header.pointee.hostCount = UInt16(trace.count)
        guard trace.blocks.count > 1 else { return }
        unsafe (header.pointee.codeStart, header.pointee.codeEnd) = trace.range
    }

    /// Whether `isRight` says so of all other blocks.
    func allParts(_ isRight: (Block) -> Bool) -> Bool {
        for index in 0..<(unsafe Int(header.pointee.partCount)) {
            // SAFETY: as many as are there.
            guard let part = unsafe Block(address: header.pointee.parts.unsafelyUnwrapped[index]),
                isRight(part)
            else { return false }
        }
        return true
    }

    static let headerSize = (MemoryLayout<BlockHeader>.size + 63) & ~63

    @inline(__always)
    var operations: OperationPointer {
        unsafe OperationPointer(
            (UnsafeMutableRawPointer(header) + Self.headerSize)
                .assumingMemoryBound(to: Operation.self))
    }

    /// The copy of the instruction bytes.
    var bytes: UnsafeMutableRawPointer {
        unsafe UnsafeMutableRawPointer(header) + Self.headerSize
            + Int(header.pointee.operationCount) * MemoryLayout<Operation>.stride
    }

    /// Bytes in the code cache.
    var size: Int {
        unsafe Self.headerSize + Int(header.pointee.operationCount) * MemoryLayout<Operation>.stride
            + Int(header.pointee.byteCount)
    }

    /// Notes the first of the bytes where `hasStart` looks for them.
    func noteStart() {
        let count = unsafe min(Int(header.pointee.byteCount), BlockHeader.startSize)
        for index in 0..<count {
            let byte = unsafe bytes.load(fromByteOffset: index, as: UInt8.self)
            unsafe header.pointee.start[index >> 3] |= UInt64(byte) << UInt64(8 * (index & 7))
        }
    }

    /// Whether 32 bytes, which are in one page, begin with the block's.
    // SAFETY: the caller has as many.
    @inline(__always)
    func hasStart(_ memory: UnsafeRawPointer) -> Bool {
        var left = unsafe Int(header.pointee.byteCount)
        for index in 0..<4 {
            let word = unsafe memory.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self)
            let difference = unsafe word ^ header.pointee.start[index]
            if left <= 8 { return difference << UInt64(64 - 8 * left) == 0 }
            if difference != 0 { return false }
            left -= 8
        }
        return true
    }

    /// RIP of the instruction after `op`, and of `op` itself.
    @inline(__always)
    func nextRIP(_ op: OperationPointer) -> UInt64 { wrapped(rip &+ UInt64(op.nextOffset)) }

    @inline(__always)
    func rip(of op: OperationPointer) -> UInt64 {
        wrapped(rip &+ UInt64(op.nextOffset) &- UInt64(op.length))
    }

    @inline(__always)
    private func wrapped(_ rip: UInt64) -> UInt64 {
        key & ModeKey.codeSize == 8 ? rip : rip & 0xFFFF_FFFF
    }

    var operationBuffer: UnsafeMutableBufferPointer<Operation> {
        unsafe UnsafeMutableBufferPointer(
            start: operations.pointer, count: Int(header.pointee.operationCount))
    }

    /// Makes every operation stop, so that a running block ends after its current instruction.
    func kill() {
        unsafe header.pointee.key |= BlockHeader.dead
        // Translated code that jumps here finds that it may not run.
        unsafe header.pointee.generation = UInt32.max
        setHostGeneration(UInt32.max)
        let operations = unsafe operationBuffer
        for index in operations.indices { unsafe operations[index].code = .stop }
    }
}
