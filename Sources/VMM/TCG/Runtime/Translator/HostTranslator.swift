internal import Core

/// The translated code of one CPU: the arena and what leads into it.
// SAFETY: stubs and code live as long as the arena, which this object has.
@safe final class HostTranslator {
    private let arena: HostArena
    private let stubs: HostStubs
    private let entry: HostStubs.Enter
    /// There was no room for a block: everything is to be forgotten.
    private(set) var isFull = false
    private(set) var blockCount = 0

    /// Runs in the interpreter before a block is translated.
    static let usualThreshold: Int32 = 16
    private static let capacity = 64 << 20

    init() throws(SystemError) {
        arena = try HostArena(capacity: Self.capacity)
        stubs = unsafe HostStubs(arena, helper: hostHelper)
        let address = arena.address(stubs.enter)
        // SAFETY: the stub follows the C convention, and lives as long as the arena.
        unsafe entry = unsafeBitCast(address, to: HostStubs.Enter.self)
    }

    /// Writes a block's code, if there is room.
    func translate(_ block: Block) {
        var translation = HostBlock(block, arena, stubs)
        translation.run()
        guard !translation.code.isFull else {
            isFull = true
            return
        }
        let header = unsafe block.header
        unsafe header.pointee.host = arena.address(translation.base)
        unsafe header.pointee.nextJump = UInt32(translation.nextJump)
        unsafe header.pointee.takenJump = UInt32(translation.takenJump)
        unsafe header.pointee.heat = -1
        arena.commit(translation.code.count)
        blockCount += 1
    }

    /// Makes a block's exit go straight to another block's code.
    func connect(_ exit: BlockExit, to target: Block, generation: UInt32) {
        guard let block = Block(address: exit.block), block.generation == generation else {
            return
        }
        let host = unsafe target.header.pointee.host
        let place =
            unsafe exit.edge == .taken
            ? block.header.pointee.takenJump : block.header.pointee.nextJump
        guard exit.edge != .faulted, host != 0, place != 0 else { return }
        arena.patch(Int(place), to: arena.offset(of: host))
    }

    func removeAll() {
        arena.removeAll()
        isFull = false
        blockCount = 0
    }

    /// Runs a block's code, and what it leads to. The result is what the code has left in R9.
    func run(_ block: Block, _ cpu: CPU) -> UInt {
        unsafe entry(UnsafeMutableRawPointer(cpu.state), block.header.pointee.host)
    }
}

/// What translated code calls: see `CPU.interpret`.
let hostHelper: HostStubs.Helper = { state, packed, hasFlags in
    // SAFETY: translated code passes its own CPU's state.
    let cpu = unsafe CPU(state.assumingMemoryBound(to: VCPUState.self))
    return cpu.interpret(packed, hasFlags: hasFlags != 0) ? 0 : 1
}
