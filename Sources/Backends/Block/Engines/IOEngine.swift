internal import CLinux
internal import Core

/// One transfer or change of the image, as an engine sees it.
// SAFETY: whoever uses `parts` says why they are valid.
@safe struct IOOperation: BitwiseCopyable {
    enum Kind: UInt8 {
        case read
        case write
        /// A write that is on stable storage when it completes.
        case stableWrite
        case sync
        /// `fallocate` with `mode` over `length` bytes.
        case allocate
        /// BLKDISCARD over `length` bytes.
        case discard
    }

    var kind: Kind
    /// Whether direct I/O must be avoided, because the request is not aligned for it.
    var isCached = false
    var partCount: Int32 = 0
    var mode: Int32 = 0
    /// Bytes into the image. The device has checked that all of the operation lies inside it.
    var offset: UInt64 = 0
    /// Bytes of a range, or of all buffers together.
    var length: UInt64 = 0
    /// Buffers, in the request's slot, which does not change while the operation runs.
    var parts: UnsafeMutablePointer<iovec>?

    init(kind: Kind) {
        self.kind = kind
        unsafe parts = nil
    }
}

/// What an engine has to tell its queue.
enum IOEvent: BitwiseCopyable {
    /// The driver may have added requests.
    case kick
    /// The queue is to stop.
    case stop
    /// An operation is done: the number of bytes, or -errno.
    case completion(slot: UInt32, result: Int64)
}

/// Does the I/O of one queue and waits for whatever can happen to it, on the queue's own thread.
///
/// The loop that uses it is generic, so each engine gets its own specialised loop and nothing is
/// dispatched at run time. Per turn of the loop the engine makes one system call, which hands over
/// all new operations and waits.
protocol IOEngine: AnyObject, SendableMetatype {
    /// How many requests are taken from the ring before completed ones are handed back.
    static var batch: Int { get }
    /// The same for the first requests after a sleep. The driver wakes up to what was done, and goes
    /// on while the others are served.
    static var firstBatch: Int { get }

    /// To be called once, on the queue's thread, before anything else.
    func begin()

    /// Starts an operation at the next `wait` at the latest. `slot` has none under way.
    func submit(_ operation: IOOperation, slot: UInt32)

    /// The next operation that was done when it was submitted.
    func nextDone() -> IOEvent?

    /// Ends as much of what was submitted as it can; that completes with -ECANCELED, the rest as
    /// always. Nothing is submitted afterwards.
    func cancel()

    /// Starts what was submitted and, if `mayBlock`, sleeps until there is an event.
    func wait(mayBlock: Bool)

    /// The next event, or `nil` when it is time to `wait`.
    func nextEvent() -> IOEvent?
}

/// What an engine needs to know.
struct IOEngineSetup: Sendable {
    var image: RawImage
    /// Operations that can be under way at once; slots are numbered from zero.
    var slots: Int
    /// Threads that `ThreadEngine` may start; with none, the queue's own thread does everything.
    var helpers: Int
    var kick: EventFD
    var stop: StopSignal
}
