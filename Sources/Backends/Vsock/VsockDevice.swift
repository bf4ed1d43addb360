package import Core
internal import VhostUser

/// A socket device (VIRTIO 1.3, section 5.10) for streams between programs of the guest and of the
/// host.
package final class VsockDevice: VirtioDevice {
    static let log = Log("vsock")

    private enum Queue {
        static let receive = 0
        static let transmit = 1
        static let event = 2
    }

    /// The guest's context identifier.
    private var config = ConfigSpace(size: 8)
    private let loop: EventLoop
    private let connections: VsockConnections
    private let chain = DescriptorChain()
    private var queues = [LoopQueue?](repeating: nil, count: 3)
    /// The guest has been served by this process.
    private var hasServed = false
    /// The guest believes in connections that were another process's.
    private var mustAnnounceLoss = false

    package let deviceID = VirtioDeviceID.vsock
    package let features =
        VirtioFeature.everyDevice | VirtioFeature.inOrder | VsockDevice.streamFeature
    package let queueCount = 3
    /// Connections end with this process, which the next one tells the guest.
    package let canSaveState = true

    /// VIRTIO_VSOCK_F_STREAM
    private static let streamFeature: UInt64 = 1 << 0
    /// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET
    private static let transportReset: UInt32 = 0

    init(_ host: VsockHost, cid: UInt64, loop: EventLoop) {
        config.store(cid, at: 0)
        self.loop = loop
        connections = VsockConnections(host, cid: cid, loop: loop)
        connections.onReady = { [unowned self] in serve() }
    }

    package func maximumQueueSize(_ queue: Int) -> UInt16 { 256 }

    package func readConfig(offset: Int, count: Int) -> [UInt8] {
        config.read(offset: offset, count: count)
    }

    package func writeConfig(offset: Int, _ bytes: [UInt8]) {}
    package func setFeatures(_ features: UInt64) throws(VirtioDeviceError) {}

    package func startQueue(_ index: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        guard queues.indices.contains(index), queues[index] == nil else {
            throw VirtioDeviceError("queue \(index) cannot be started")
        }
        if !hasServed, !setup.isFresh { mustAnnounceLoss = true }
        queues[index] = try LoopQueue(setup, index: index, on: loop) { [unowned self] in serve() }
    }

    package func stopQueue(_ index: Int) -> QueueState {
        guard queues.indices.contains(index), let queue = queues[index] else { return .freshSplit }
        queues[index] = nil
        return queue.stop()
    }

    package func reset() {
        for index in queues.indices { _ = stopQueue(index) }
        connections.closeAll()
        hasServed = false
        mustAnnounceLoss = false
    }

    private func serve() {
        sendPackets()
        takePackets()
        // Answers to what was taken.
        sendPackets()
        if mustAnnounceLoss { announceLoss() }
    }

    private func takePackets() {
        guard let queue = queues[Queue.transmit] else { return }
        while connections.hasRoom, queue.pop(into: chain) {
            hasServed = true
            connections.take(chain)
            queue.push(chain, written: 0)
        }
        queue.publish()
    }

    private func sendPackets() {
        guard let queue = queues[Queue.receive] else { return }
        while connections.hasPacket, queue.pop(into: chain) {
            if chain.writableLength >= UInt64(VsockHeader.size) {
                queue.push(chain, written: connections.fill(chain))
            } else {
                Self.log.guest("a buffer without room for a header is dropped")
                queue.push(chain, written: 0)
            }
        }
        queue.publish()
    }

    /// Lets the guest end all its connections (VIRTIO 1.3, section 5.10.6.7).
    private func announceLoss() {
        guard let queue = queues[Queue.event], queue.pop(into: chain) else { return }
        let isWritten = chain.write(at: 0, Self.transportReset)
        queue.push(chain, written: isWritten ? 4 : 0)
        queue.publish()
        if isWritten { mustAnnounceLoss = false }
    }
}
