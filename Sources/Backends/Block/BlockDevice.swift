package import Core
internal import CLinux
internal import Synchronization

/// A virtio block device (VIRTIO 1.3, section 5.2) whose disk is a raw image. Each started queue
/// has a thread of its own; the verbs are the control thread's.
package final class BlockDevice: VirtioDevice {
    private let options: BlockOptions
    private let shared: BlockShared
    private let engines: [EngineKind]
    private var config: BlockConfig
    private var queues: [BlockQueue?]

    package let deviceID = VirtioDeviceID.block
    package let features: UInt64
    package let servesOnThreads = true
    package let canSaveState = true

    /// Finds out how to do I/O.
    /// - Parameter queueFilter: what the queues' threads restrict themselves with.
    init(
        _ image: RawImage, _ options: BlockOptions, queueFilter: SeccompFilter? = nil
    ) throws(BlockError) {
        self.options = options
        shared = try BlockShared(image: image, options: options, queueFilter: queueFilter)
        engines = try Self.usableEngines(options, image)
        config = BlockConfig(image: image, options: options)
        queues = Array(repeating: nil, count: options.queueCount)
        features = Self.features(image, options)
    }

    deinit { stopAll() }

    private static func usableEngines(
        _ options: BlockOptions, _ image: RawImage
    ) throws(BlockError) -> [EngineKind] {
        var usable: [EngineKind] = []
        for kind in try EngineKind.candidates(options.engine, for: image) {
            if let obstacle = kind.obstacle(image) {
                blockLog(.info, "\(obstacle)")
                if options.engine != .automatic { throw obstacle }
            } else {
                usable.append(kind)
            }
        }
        blockLog(.info, "engine: \(usable.first?.rawValue ?? "none")")
        return usable
    }

    private static func features(_ image: RawImage, _ options: BlockOptions) -> UInt64 {
        var features = VirtioFeature.everyDevice
        features |= BlockFeature.segmentMaximum | BlockFeature.blockSize | BlockFeature.topology
        if options.queueCount > 1 { features |= BlockFeature.multiQueue }
        if image.isReadOnly { return features | BlockFeature.readOnly }
        // A driver that is not offered a flush relies on every write being stable.
        if options.isWriteback { features |= BlockFeature.flush | BlockFeature.configurableCache }
        if image.canDiscard { features |= BlockFeature.discard }
        return features | BlockFeature.writeZeroes
    }

    package var queueCount: Int { queues.count }

    package func maximumQueueSize(_ queue: Int) -> UInt16 { options.maximumQueueSize }

    package func readConfig(offset: Int, count: Int) -> [UInt8] {
        config.space.read(offset: offset, count: count)
    }

    package func writeConfig(offset: Int, _ bytes: [UInt8]) {
        let place = BlockConfig.writebackOffset
        guard features & BlockFeature.configurableCache != 0, offset >= 0, offset <= place,
            place - offset < bytes.count
        else { return }
        setWriteback(bytes[place - offset] != 0)
    }

    private func setWriteback(_ isOn: Bool) {
        let wasOn = shared.isWriteback.exchange(isOn, ordering: .relaxed)
        config.setWriteback(isOn)
        // What was promised to be flushed later is not going to be.
        if wasOn && !isOn { _ = clinux_fdatasync(shared.image.fd) }
    }

    package func setFeatures(_ features: UInt64) throws(VirtioDeviceError) {
        guard features & ~self.features == 0 else {
            throw VirtioDeviceError(
                "features 0x\(String(features & ~self.features, radix: 16)) are not on offer")
        }
    }

    package func startQueue(_ queue: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        guard queues.indices.contains(queue) else {
            throw VirtioDeviceError("there is no queue \(queue)")
        }
        guard queues[queue] == nil else {
            throw VirtioDeviceError("queue \(queue) has been started already")
        }
        guard setup.layout.size <= options.maximumQueueSize else {
            throw VirtioDeviceError(
                "queue \(queue) has \(setup.layout.size) entries, more than "
                    + "\(options.maximumQueueSize)")
        }
        var setup = setup
        setup.leavesOutUnreachable = true
        do {
            queues[queue] = try BlockQueue(
                try Virtqueue(setup), index: queue, shared: shared, engines: engines)
        } catch {
            throw VirtioDeviceError("queue \(queue): \(error)")
        }
    }

    package func stopQueue(_ queue: Int) -> QueueState { stop(queue, isAbrupt: false) }

    package func suspendQueue(_ queue: Int) -> QueueState { stop(queue, isAbrupt: true) }

    private func stop(_ queue: Int, isAbrupt: Bool) -> QueueState {
        guard queues.indices.contains(queue), let running = queues[queue] else {
            return .freshSplit
        }
        queues[queue] = nil
        return running.stop(isAbrupt: isAbrupt)
    }

    package func reset() {
        stopAll()
        setWriteback(options.isWriteback)
    }

    private func stopAll() {
        for index in queues.indices where queues[index] != nil { _ = stopQueue(index) }
    }
}
