internal import Core
internal import Synchronization

/// Guest memory as the driver's processor sees it: ordered loads and stores.
// SAFETY: made by `find`, which checks that all bytes are mapped; tests keep to offsets inside, and
// hold the memory while they use it.
@safe struct SharedCells: BitwiseCopyable {
    private let base: UnsafeMutableRawPointer

    static func find(_ address: GuestAddress, count: Int, in memory: GuestMemory) -> SharedCells {
        guard let host = unsafe memory.hostAddress(address, count: UInt64(count)) else {
            preconditionFailure("\(count) bytes at \(address) are not guest memory")
        }
        return unsafe SharedCells(base: host)
    }

    @inline(__always)
    func cell<T: AtomicRepresentable>(_ offset: Int, _: T.Type) -> UnsafeMutablePointer<Atomic<T>> {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<T>.self)
    }

    @inline(__always)
    func load16(_ offset: Int) -> UInt16 {
        unsafe cell(offset, UInt16.self).pointee.load(ordering: .acquiring)
    }

    @inline(__always)
    func load32(_ offset: Int) -> UInt32 {
        unsafe cell(offset, UInt32.self).pointee.load(ordering: .acquiring)
    }

    @inline(__always)
    func store16(_ offset: Int, _ value: UInt16) {
        unsafe cell(offset, UInt16.self).pointee.store(value, ordering: .releasing)
    }

    @inline(__always)
    func store32(_ offset: Int, _ value: UInt32) {
        unsafe cell(offset, UInt32.self).pointee.store(value, ordering: .releasing)
    }

    /// Not atomic: for what the other side does not look at yet.
    @inline(__always)
    func put<T: BitwiseCopyable>(_ offset: Int, _ value: T) {
        unsafe (base + offset).storeBytes(of: value, as: T.self)
    }

    /// Makes all writes so far visible before anything is read from now on.
    @inline(__always)
    static func fence() { atomicMemoryFence(ordering: .sequentiallyConsistent) }
}

/// The indirect tables of a queue, one for each id, all of the same size.
struct IndirectTables {
    let size: Int
    let start: GuestAddress
    private let cells: SharedCells?

    init(_ scratch: ScratchMemory, count: Int, size: Int) {
        self.size = size
        guard size > 0 else {
            start = GuestAddress(0)
            cells = nil
            return
        }
        start = scratch.allocate(16 * size * count)
        cells = SharedCells.find(start, count: 16 * size * count, in: scratch.memory)
    }

    func address(_ id: Int) -> UInt64 { start.rawValue + UInt64(16 * size * id) }

    /// Writes descriptor `index` of table `id`: the address, the length, and two 16-bit fields.
    func put(_ id: Int, _ index: Int, _ buffer: DriverBuffer, _ third: UInt16, _ fourth: UInt16) {
        guard let cells else { preconditionFailure("the queue has no indirect tables") }
        let offset = 16 * (size * id + index)
        cells.put(offset, buffer.address.rawValue)
        cells.put(offset + 8, buffer.length)
        cells.put(offset + 12, third)
        cells.put(offset + 14, fourth)
    }
}

/// What a driver remembers of a request.
struct PendingRequest {
    var token: UInt64
    /// Descriptors in the ring; 0 if the id is free.
    var descriptorCount: UInt16
}

enum RingFlag {
    static let next: UInt16 = 1
    static let write: UInt16 = 2
    static let indirect: UInt16 = 4
}
