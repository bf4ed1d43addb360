/// The parts of a virtqueue, in the words of VIRTIO 1.3, section 2.6.
public enum QueuePart: String, Sendable {
    case descriptors = "descriptor area"
    case driver = "driver area"
    case device = "device area"
}

/// What a driver (or a front end) did that makes a virtqueue unusable. The queue stays broken until
/// it is set up again; other queues are not concerned.
public enum QueueError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Not a size that this kind of ring may have.
    case invalidSize(UInt16)
    /// A part of the ring is not aligned as VIRTIO 1.3, section 2.6, demands.
    case misaligned(QueuePart, GuestAddress)
    /// A part of the ring is not all in one region of guest memory.
    case partOutsideMemory(QueuePart, GuestAddress, count: UInt64)
    /// The state to start from cannot come from a ring of this kind and size.
    case invalidState(QueueState)
    /// The driver's index is further ahead than the ring is long.
    case availableIndexJumped(to: UInt16, expected: UInt16)
    /// More is under way than the ring has descriptors.
    case tooManyOutstanding(size: UInt16)
    /// The available ring names a descriptor that does not exist.
    case headOutOfRange(UInt16, size: UInt16)
    /// A descriptor's `next` is not in its table.
    case nextOutOfRange(UInt16, count: UInt32)
    /// A chain has more descriptors than the ring (or table): it is a loop.
    case loop(head: UInt16)
    /// A chain has more descriptors, or more pieces of memory, than this device takes.
    case chainTooLong(head: UInt16, limit: Int)
    /// A chain's buffers add up to more than 2^32 bytes.
    case chainTooLarge(head: UInt16, byteCount: UInt64)
    /// A buffer is not all in guest memory.
    case bufferOutsideMemory(GuestAddress, count: UInt32)
    /// A device-readable buffer follows a device-writable one.
    case readableAfterWritable(head: UInt16)
    /// An indirect descriptor without VIRTIO_F_INDIRECT_DESC.
    case indirectNotNegotiated(head: UInt16)
    /// An indirect descriptor within an indirect table.
    case indirectNested(head: UInt16)
    /// An indirect descriptor that is followed by another (packed: also one that follows another).
    case indirectInChain(head: UInt16)
    /// An indirect table's length is zero or not a multiple of 16.
    case indirectLength(UInt32)
    /// An indirect table is not all in guest memory.
    case indirectOutsideMemory(GuestAddress, count: UInt32)

    /// The memory for what is in flight has no room for a queue of this size.
    case inflightTooSmall(size: UInt16)
    /// The memory for what is in flight contradicts itself.
    case inflightInvalid(String)

    public var description: String {
        switch self {
        case .inflightTooSmall(let size):
            "the memory for what is in flight has no room for a queue of \(size)"
        case .inflightInvalid(let what): "the memory for what is in flight is damaged: \(what)"
        case .invalidSize(let size): "\(size) is not a valid queue size"
        case .misaligned(let part, let address):
            "the \(part.rawValue) at \(address) is misaligned"
        case .partOutsideMemory(let part, let address, let count):
            "the \(part.rawValue) (\(count) bytes at \(address)) is not in one memory region"
        case .invalidState(let state):
            "a queue cannot start at available index \(state.nextAvailable) and used index "
                + "\(state.nextUsed)"
        case .availableIndexJumped(let index, let expected):
            "the available index is \(index), too far ahead of \(expected)"
        case .tooManyOutstanding(let size):
            "more descriptors are in use than the queue's \(size)"
        case .headOutOfRange(let head, let size):
            "the available ring names descriptor \(head) of \(size)"
        case .nextOutOfRange(let next, let count):
            "a descriptor's next is \(next), of \(count) descriptors"
        case .loop(let head): "the descriptor chain at \(head) is a loop"
        case .chainTooLong(let head, let limit):
            "the descriptor chain at \(head) has more than \(limit) buffers"
        case .chainTooLarge(let head, let byteCount):
            "the descriptor chain at \(head) has \(byteCount) bytes, more than 2^32"
        case .bufferOutsideMemory(let address, let count):
            "a buffer (\(count) bytes at \(address)) is not guest memory"
        case .readableAfterWritable(let head):
            "the descriptor chain at \(head) has a readable buffer after a writable one"
        case .indirectNotNegotiated(let head):
            "the descriptor chain at \(head) is indirect, which was not negotiated"
        case .indirectNested(let head):
            "the descriptor chain at \(head) has an indirect descriptor in an indirect table"
        case .indirectInChain(let head):
            "the descriptor chain at \(head) has an indirect descriptor in the midst of others"
        case .indirectLength(let length):
            "an indirect table's length is \(length), not a positive multiple of 16"
        case .indirectOutsideMemory(let address, let count):
            "an indirect table (\(count) bytes at \(address)) is not guest memory"
        }
    }
}
