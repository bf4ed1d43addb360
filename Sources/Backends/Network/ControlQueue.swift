internal import Core
internal import VhostUser

/// The queue of a driver's commands (VIRTIO 1.3, section 5.1.6.5).
final class ControlQueue {
    private enum Command {
        /// Class VIRTIO_NET_CTRL_MQ, command VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, low byte first.
        static let setPairs: UInt16 = 4
    }
    private enum Answer {
        static let ok: UInt8 = 0
        static let error: UInt8 = 1
    }

    private let pairCount: Int
    private let onPairs: (Int) -> Void
    private let chain = DescriptorChain(capacity: 4)
    private var queue: LoopQueue?

    /// - Parameter onPairs: called when the driver uses so many pairs from now on.
    init(
        _ setup: QueueSetup, index: Int, on loop: EventLoop, pairCount: Int,
        onPairs: @escaping (Int) -> Void
    ) throws(VirtioDeviceError) {
        self.pairCount = pairCount
        self.onPairs = onPairs
        queue = try LoopQueue(setup, index: index, on: loop) { [unowned self] in serve() }
    }

    func stop() -> QueueState { queue?.stop() ?? .freshSplit }

    private func serve() {
        guard let queue else { return }
        while queue.pop(into: chain) {
            let hasRoom = chain.writableLength > 0
            // The answer is the last byte of what can be written.
            if hasRoom { chain.write(at: chain.writableLength &- 1, perform()) }
            queue.push(chain, written: hasRoom ? UInt32(clamping: chain.writableLength) : 0)
        }
        queue.publish()
    }

    private func perform() -> UInt8 {
        guard chain.read(at: 0, as: UInt16.self) == Command.setPairs,
            let count = chain.read(at: 2, as: UInt16.self).map({ Int(UInt16(littleEndian: $0)) }),
            count >= 1, count <= pairCount
        else { return Answer.error }
        onPairs(count)
        return Answer.ok
    }
}
