internal import Core
internal import Glibc

/// What `tier=both` keeps of one CPU.
///
/// A block runs in the interpreter first, and what it writes goes to copies of pages: the soft TLB's
/// entries lead there until the run is over. Then the translated code of the block runs from the
/// same state on the guest's memory, so that devices and other programs see each write once, and
/// all that one tier did is compared with what the other did. What differs may be the work of others
/// who wrote to memory in between, so both runs are made again, on copies, before it is an error.
// SAFETY: all pointers lead into the mapping, at offsets computed from the sizes of what lies there;
// only the CPU's own thread uses them.
@safe final class Lockstep {
    /// `VCPUState.lockstep`.
    enum Stage {
        /// Each block runs in one tier.
        static let off: UInt8 = 0
        /// Between runs. Writes take the slow path from here on.
        static let idle: UInt8 = 1
        /// A run that writes to copies.
        static let copied: UInt8 = 2
        /// The run that counts.
        static let real: UInt8 = 3
    }

    /// What there are copies of: memory and registers before the block, and behind it.
    enum Side: Int { case before, interpreter, translator, real }

    /// An entry of the soft TLB as it was.
    // SAFETY: the entry is part of the tables, which live as long as the CPU.
    @safe struct Change {
        var slot: UnsafeMutablePointer<TLBEntry>
        var old: TLBEntry
    }

    /// A page's entry that the interpreter has written by way of.
    // SAFETY: as above.
    @safe struct Written {
        var slot: UnsafeMutablePointer<TLBEntry>
        var page: UInt64
    }

    static let pageCapacity = 64
    private static let changeCapacity = 2048
    private static let writtenCapacity = 256
    static let stateSize = VCPUState.fxImageSize + MemoryLayout<VCPUState>.size

    private let mapping: MemoryMapping
    private let states: UnsafeMutableRawPointer
    private let pages: UnsafeMutableRawPointer
    private let addresses: UnsafeMutablePointer<UInt64>
    private let changes: UnsafeMutablePointer<Change>
    private let written: UnsafeMutablePointer<Written>
    private(set) var pageCount = 0
    private var changeCount = 0
    private(set) var writtenCount = 0

    /// Whose run it is: where `Stage.copied` writes to.
    var side = Side.interpreter
    /// The run did something that cannot be done twice, or too much.
    var isUnfit = false
    /// There was no room for a page's copy, or for an entry of the TLB.
    private var isFull = false
    private var hasLostChanges = false
    /// Exit requests that came while they were held back.
    var requests: UInt32 = 0
    /// Other entries of the TLB for a page that is copied lead to the copy, too.
    var isThorough = false

    /// Runs of blocks that were the same in both tiers, and those of one tier.
    var comparedRuns: UInt64 = 0
    var otherRuns: UInt64 = 0
    /// Of those: runs that were the same when they were made again.
    var disturbedRuns: UInt64 = 0
    /// What differs; the machine ends.
    var report: String?

    private static let stateStride = (stateSize + 63) & ~63
    private static let addressOffset = 4 * stateStride
    private static let changeOffset = addressOffset + pageCapacity * 8
    private static let writtenOffset =
        changeOffset + changeCapacity * MemoryLayout<Change>.stride
    private static let pageOffset =
        (writtenOffset + writtenCapacity * MemoryLayout<Written>.stride + 4095) & ~4095

    init() throws(SystemError) {
        // One page more takes what has no room.
        mapping = try MemoryMapping(anonymous: Self.pageOffset + (3 * Self.pageCapacity + 1) << 12)
        let base = unsafe mapping.base
        unsafe states = base
        unsafe addresses = (base + Self.addressOffset).assumingMemoryBound(to: UInt64.self)
        unsafe changes = (base + Self.changeOffset).assumingMemoryBound(to: Change.self)
        unsafe written = (base + Self.writtenOffset).assumingMemoryBound(to: Written.self)
        unsafe pages = base + Self.pageOffset
    }

    // MARK: Registers

    /// The FXSAVE image and the state behind it.
    func state(_ side: Side) -> UnsafeMutableRawPointer {
        unsafe states + side.rawValue * Self.stateStride
    }

    func fields(_ side: Side) -> UnsafeMutablePointer<VCPUState> {
        unsafe (state(side) + VCPUState.fxImageSize).assumingMemoryBound(to: VCPUState.self)
    }

    func keep(_ cpu: CPU, as side: Side) {
        unsafe memcpy(state(side), cpu.fxImage, Self.stateSize)
        unsafe fields(side).pointee.exitRequest = 0
    }

    /// Puts the arithmetic flags where all others are.
    func foldFlags(_ side: Side, _ flags: UInt64) {
        let state = unsafe fields(side)
        unsafe state.pointee.flagResult = 0
        unsafe state.pointee.flagAux = 0
        unsafe state.pointee.systemFlags |= flags
    }

    private static let exitOffset = MemoryLayout.offset(of: \VCPUState.exitRequest) ?? 0

    /// All but the exit request, which is others', too.
    func restore(_ cpu: CPU, _ side: Side) {
        let first = VCPUState.fxImageSize + Self.exitOffset
        unsafe memcpy(cpu.fxImage, state(side), first)
        unsafe memcpy(
            cpu.fxImage + first + 4, state(side) + first + 4, Self.stateSize - first - 4)
    }

    // MARK: Pages

    func address(_ index: Int) -> UInt64 { unsafe addresses[index] }

    func copy(_ index: Int, _ side: Side) -> UnsafeMutableRawPointer {
        unsafe pages + (3 * index + side.rawValue) << 12
    }

    /// Forgets all copies.
    func start() {
        pageCount = 0
        changeCount = 0
        writtenCount = 0
        isUnfit = false
        isFull = false
        isThorough = false
        side = .interpreter
    }

    /// Makes the copies of a side what the pages were before the block.
    func reset(_ side: Side) {
        self.side = side
        isFull = false
        for index in 0..<pageCount { unsafe memcpy(copy(index, side), copy(index, .before), 4096) }
    }

    func index(of page: UInt64) -> Int? {
        for index in 0..<pageCount where unsafe addresses[index] == page { return index }
        return nil
    }

    /// The copy of a page that is there, or what takes what has no room.
    func copy(of page: UInt64) -> UnsafeMutableRawPointer? {
        if let index = index(of: page) { return unsafe copy(index, side) }
        return isFull ? unsafe copy(Self.pageCapacity, .before) : nil
    }

    /// Copies a page that is about to be written for the first time.
    func add(_ page: UInt64, _ host: UnsafeMutableRawPointer) {
        guard pageCount < Self.pageCapacity else {
            // What follows is not used.
            isFull = true
            isUnfit = true
            return
        }
        unsafe addresses[pageCount] = page
        unsafe memcpy(copy(pageCount, .before), host, 4096)
        unsafe memcpy(copy(pageCount, .interpreter), host, 4096)
        if side == .translator { unsafe memcpy(copy(pageCount, .translator), host, 4096) }
        pageCount += 1
    }

    // MARK: The soft TLB

    /// Keeps an entry that is about to change.
    func note(_ slot: UnsafeMutablePointer<TLBEntry>) {
        guard changeCount < Self.changeCapacity else {
            isUnfit = true
            hasLostChanges = true
            return
        }
        unsafe changes[changeCount] = Change(slot: slot, old: slot.pointee)
        changeCount += 1
    }

    func noteWritten(_ slot: UnsafeMutablePointer<TLBEntry>, page: UInt64) {
        guard writtenCount < Self.writtenCapacity else { return }
        unsafe written[writtenCount] = Written(slot: slot, page: page)
        writtenCount += 1
    }

    func forgetChanges() {
        changeCount = 0
        hasLostChanges = false
    }

    /// Makes the TLB what it was. What did not fit into the list is dropped.
    func undoChanges(_ cpu: CPU) {
        while changeCount > 0 {
            changeCount -= 1
            let change = unsafe changes[changeCount]
            unsafe change.slot.pointee = change.old
        }
        if hasLostChanges { cpu.flushTLB() }
        hasLostChanges = false
    }

    /// Lets translated code write where the interpreter has written.
    func allowWrites(_ cpu: CPU) {
        for index in 0..<writtenCount {
            let entry = unsafe written[index]
            let flags = unsafe entry.slot.pointee.physical
            guard unsafe entry.slot.pointee.holds(page: entry.page),
                flags & (TLBFlags.slow | TLBFlags.writable) == TLBFlags.writable,
                !cpu.hasCode(physical: flags)
            else { continue }
            unsafe entry.slot.pointee.writeTag = entry.page
        }
    }

    func forbidWrites() {
        for index in 0..<writtenCount {
            let entry = unsafe written[index]
            if unsafe entry.slot.pointee.writeTag == entry.page {
                unsafe entry.slot.pointee.writeTag = TLBEntry.emptyTag(TLB.index(entry.page))
            }
        }
    }
}
