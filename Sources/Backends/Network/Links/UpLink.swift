internal import Core
internal import Glibc

/// What became of a batch of frames.
enum SendResult {
    /// All are gone.
    case done
    /// The rest goes when the link takes more.
    case blocked
    /// There is nobody to send the rest to.
    case lost
}

/// What room the next frame needs.
enum NextFrame {
    /// So many bytes, without header; links that cannot know name the most.
    case room(UInt64)
    /// There was one that makes no sense, or that was to be dropped.
    case dropped
    /// Nothing has come, as far as is known.
    case nothing
}

/// What came of a frame.
enum ReceiveResult {
    /// It lies in the window with so many bytes, without header.
    case frame(UInt64)
    /// It was longer than the window, and is gone.
    case tooLong
    /// The rest, or all of it, is still to come.
    case nothing
}

/// Where the frames of a pair of queues go to and come from. One thread at a time uses it, and
/// nothing waits.
protocol UpLink: AnyObject {
    /// Whether frames carry the header of virtio with them.
    var carriesHeader: Bool { get }
    /// Whether each frame is preceded by its length.
    var hasLengths: Bool { get }
    /// Whether somebody is at the other end.
    var isConnected: Bool { get }
    /// To be polled: for frames (or for somebody to connect), and for room to send in; -1 if there is
    /// none.
    var readFD: Int32 { get }
    var writeFD: Int32 { get }
    /// When to call `turn` at the latest, by the monotonic clock; `nil`: no need to.
    var deadline: UInt64? { get }

    /// The driver has accepted these; no thread uses the link.
    func use(features: UInt64)
    /// Whether frames are to come this way, where several links lead to the same network; from the
    /// control thread.
    func attach(_ isAttached: Bool)
    /// A turn of the loop begins; connects if that is due.
    /// - Parameter isReadable: `readFD` is.
    func turn(isReadable: Bool)
    /// The other end has gone, as a poll says.
    func hangUp()

    func send(_ batch: TransmitBatch) -> SendResult
    func nextFrame() -> NextFrame
    func receive(_ window: ReceiveWindow, headerSize: UInt64) -> ReceiveResult
    /// Drops the frame that `nextFrame` has announced.
    func skipFrame()
    /// Drops the rest of a frame that has been received in part: its buffers are given up.
    func forgetFrame()
    /// Takes over the rest of a frame that has been sent in part: its buffers are given up.
    func keepRest(of batch: TransmitBatch)
    /// That rest, where another process can go on with it.
    var unsent: [UInt8] { get set }
}

extension UpLink {
    func use(features: UInt64) {}
    func attach(_ isAttached: Bool) {}
    var unsent: [UInt8] {
        get { [] }
        set {}
    }
}
