package import Core
internal import Synchronization
internal import VhostUser

/// A virtio network device (VIRTIO 1.3, section 5.1).
package final class NetworkDevice: VirtioDevice {
    private let options: NetworkOptions
    private let pair: any QueuePair
    private let link: LinkState
    private var running: [Bool]

    package let deviceID = VirtioDeviceID.net
    package let features: UInt64

    /// Whether there is somebody at the other end of the up-link, as pairs find out.
    private final class LinkState: Sendable {
        let isUp = Atomic(false)
    }

    /// - Parameters:
    ///   - loop: the control thread's.
    ///   - pairFilter: what the threads of pairs restrict themselves with.
    ///   - configChanged: called on the control thread when the up-link has come or gone.
    init(
        _ options: NetworkOptions, _ files: LinkFiles, on loop: EventLoop,
        pairFilter: SeccompFilter? = nil, configChanged: @escaping () -> Void = {}
    ) throws {
        self.options = options
        let link = LinkState()
        self.link = link
        // SAFETY: called on the control thread only, which also made it.
        nonisolated(unsafe) let configChanged = configChanged
        pair = try LinkFactory(options, files, filter: pairFilter).makePair { isUp in
            link.isUp.store(isUp, ordering: .relaxed)
            loop.post { unsafe configChanged() }
        }
        running = [false, false]
        var features =
            VirtioFeature.version1 | VirtioFeature.indirectDescriptors | VirtioFeature.eventIndex
            | VirtioFeature.packedRing | NetworkFeature.mergeableBuffers | NetworkFeature.status
        if options.mac != nil { features |= NetworkFeature.mac }
        if options.mtu != nil { features |= NetworkFeature.mtu }
        self.features = features
    }

    deinit { reset() }

    package var queueCount: Int { running.count }

    package func maximumQueueSize(_ queue: Int) -> UInt16 { options.maximumQueueSize }

    package func readConfig(offset: Int, count: Int) -> [UInt8] {
        let config = NetworkConfig(
            mac: options.mac, isUp: link.isUp.load(ordering: .relaxed), mtu: options.mtu ?? 0)
        let bytes = config.bytes
        guard offset >= 0, count > 0, offset < bytes.count else { return [] }
        return Array(bytes[offset..<min(bytes.count, offset &+ count)])
    }

    package func writeConfig(offset: Int, _ bytes: [UInt8]) {}

    package func setFeatures(_ features: UInt64) throws(VirtioDeviceError) {
        guard features & ~self.features == 0 else {
            throw VirtioDeviceError(
                "features 0x\(String(features & ~self.features, radix: 16)) are not on offer")
        }
    }

    package func startQueue(_ queue: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        guard running.indices.contains(queue), let direction = Direction(rawValue: queue & 1) else {
            throw VirtioDeviceError("there is no queue \(queue)")
        }
        guard !running[queue] else {
            throw VirtioDeviceError("queue \(queue) has been started already")
        }
        guard setup.layout.size <= options.maximumQueueSize else {
            throw VirtioDeviceError(
                "queue \(queue) has \(setup.layout.size) entries, more than "
                    + "\(options.maximumQueueSize)")
        }
        guard setup.kick != nil else {
            throw VirtioDeviceError("queue \(queue) has no kick descriptor, and is not polled")
        }
        let ring: Virtqueue
        do throws(QueueError) {
            ring = try Virtqueue(setup)
        } catch {
            throw VirtioDeviceError("queue \(queue): \(error)")
        }
        try pair.start(direction, ring)
        running[queue] = true
    }

    package func stopQueue(_ queue: Int) -> QueueState {
        guard running.indices.contains(queue), running[queue],
            let direction = Direction(rawValue: queue & 1)
        else { return .freshSplit }
        running[queue] = false
        return pair.stop(direction) ?? .freshSplit
    }

    package func reset() {
        for queue in running.indices { _ = stopQueue(queue) }
    }
}
