internal import Core

/// The queue that brings frames to the driver, as the thread has it that serves it.
final class ReceiveQueue {
    let queue: Virtqueue
    let window: ReceiveWindow
    let headerSize: UInt64
    /// The driver is told which checksums are right.
    let checksChecksums: Bool
    /// Buffers were asked for, and a kick is waited for.
    var needsBuffers = false
    /// There once was room for any frame.
    var hasHadRoom = false
    var hasPushed = false

    init(_ queue: Virtqueue, for link: any UpLink) {
        let features = queue.setup.features
        self.queue = queue
        window = ReceiveWindow(features: features)
        headerSize = FrameHeader.size(features: features)
        checksChecksums = !link.carriesHeader && features & NetworkFeature.guestChecksum != 0
    }
}
