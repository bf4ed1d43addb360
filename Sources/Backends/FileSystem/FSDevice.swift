package import Core
internal import VhostUser

/// A virtio file system device (VIRTIO 1.3, section 5.11) that shares a folder. Each started queue
/// has a thread of its own; the verbs are the control thread's.
package final class FSDevice: VirtioDevice {
    private let options: FSOptions
    private let open: () throws -> FileSystem
    /// There from the first queue's start on: until then, another process may work with the files.
    private var fileSystem: FileSystem?
    private var helpers: HelperPool?
    private var channel: (any SharedMemoryChannel)?
    private let config: ConfigSpace
    private var queues: [FSQueue?]

    static let notification: UInt64 = 1 << 0  // VIRTIO_FS_F_NOTIFICATION

    package let deviceID = VirtioDeviceID.fs
    package let features: UInt64
    /// Whether the driver has a queue for notifications, between the first and those for requests.
    private var hasNotifications = false
    package let servesOnThreads = true
    /// What is known is in a ledger for the next process, and there is nothing in the state.
    private let hasLedger: Bool
    /// Whether the files' locks were given back for another process.
    private var hasGivenLocks = false

    /// - Parameters:
    ///   - isReplaceable: the next process gets at the ledger and the files that this one leaves.
    ///   - open: is called when the first queue starts.
    init(
        _ options: FSOptions, isReplaceable: Bool = false,
        _ open: @escaping () throws -> FileSystem
    ) {
        self.options = options
        hasLedger = isReplaceable
        self.open = open
        features = VirtioFeature.everyDevice | (options.notifies ? Self.notification : 0)
        config = Self.config(
            tag: options.tag, requestQueues: options.queueCount, notifies: options.notifies)
        // The first one is for requests that must not wait.
        queues = Array(
            repeating: nil, count: (options.notifies ? 2 : 1) + options.queueCount)
    }

    deinit {
        reset()
        helpers?.stop()
    }

    /// VIRTIO 1.3, section 5.11.4.
    static func config(
        tag: String?, requestQueues: Int, notifies: Bool = false
    ) -> ConfigSpace {
        var config = ConfigSpace(size: FSOptions.tagSize + (notifies ? 8 : 4))
        if notifies {
            config.store(UInt32(FSNotifier.messageSize), at: FSOptions.tagSize + 4)
        }
        config.store(Array((tag ?? "").utf8.prefix(FSOptions.tagSize)), at: 0)
        config.store(UInt32(clamping: requestQueues), at: FSOptions.tagSize)
        return config
    }

    package var queueCount: Int { queues.count }

    package func maximumQueueSize(_ queue: Int) -> UInt16 { options.maximumQueueSize }

    package func readConfig(offset: Int, count: Int) -> [UInt8] {
        config.read(offset: offset, count: count)
    }

    package func writeConfig(offset: Int, _ bytes: [UInt8]) {}

    /// The window is region 0 (VIRTIO 1.3, section 5.11.6.4).
    package var sharedRegions: [UInt64] { options.cacheSize > 0 ? [options.cacheSize] : [] }

    package func useSharedMemory(_ channel: (any SharedMemoryChannel)?) {
        self.channel = channel
        fileSystem?.mappings?.use(channel)
    }

    package func setFeatures(_ features: UInt64) throws(VirtioDeviceError) {
        guard features & ~self.features == 0 else {
            throw VirtioDeviceError(
                "features 0x\(String(features & ~self.features, radix: 16)) are not on offer")
        }
        hasNotifications = features & Self.notification != 0
    }

    package func startQueue(_ index: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        guard queues.indices.contains(index), queues[index] == nil else {
            throw VirtioDeviceError("queue \(index) cannot be started")
        }
        do {
            let fileSystem = try useFileSystem()
            // Nobody has taken over after all.
            if hasGivenLocks { fileSystem.takeLocksAgain() }
            hasGivenLocks = false
            if helpers == nil, options.helperCount > 0 {
                helpers = try HelperPool(options.helperCount, fileSystem)
            }
            queues[index] = try makeQueue(index, setup, fileSystem)
        } catch {
            throw VirtioDeviceError("queue \(index): \(error)")
        }
    }

    private func useFileSystem() throws -> FileSystem {
        if let fileSystem { return fileSystem }
        let fileSystem = try open()
        fileSystem.mappings?.use(channel)
        self.fileSystem = fileSystem
        return fileSystem
    }

    private func makeQueue(
        _ index: Int, _ setup: QueueSetup, _ fileSystem: FileSystem
    ) throws -> FSQueue {
        var setup = setup
        setup.leavesOutUnreachable = true
        let queue = try Virtqueue(setup)
        if hasNotifications, index == 1, let watch = fileSystem.watch {
            watch.isActive = true
            let isBehind = watch.catchUp() && fileSystem.nodes.count > 0
            return try FSQueue(queue, index: index, fileSystem) { kick, stop in
                FSNotifier(queue, fileSystem, watch, kick: kick, stop: stop).run(
                    isBehind: isBehind)
            }
        }
        let number = hasNotifications && index > 1 ? index - 1 : index
        return try FSQueue(queue, index: index, fileSystem) { [helpers] kick, stop in
            FSService(queue, index: number, fileSystem, helpers, kick: kick).run(until: stop)
        }
    }

    package func stopQueue(_ index: Int) -> QueueState {
        guard queues.indices.contains(index), let running = queues[index] else {
            return .freshSplit
        }
        queues[index] = nil
        return running.stop()
    }

    /// What the driver knows stays valid: a driver that begins anew says so itself.
    package func reset() {
        for index in queues.indices where queues[index] != nil { _ = stopQueue(index) }
    }

    // MARK: In another process

    package let canSaveState = true
    /// The most that a state may take, in bytes.
    var stateLimit = FolderState.sizeLimit

    package func saveState() throws(VirtioDeviceError) -> [UInt8] {
        guard !hasLedger, let fileSystem else { return [] }
        do {
            let state = try fileSystem.save(limit: stateLimit)
            hasGivenLocks = true
            return state
        } catch {
            throw VirtioDeviceError("\(error)")
        }
    }

    package func loadState(_ bytes: [UInt8]) throws(VirtioDeviceError) {
        if bytes.isEmpty { return }
        guard !hasLedger else {
            throw VirtioDeviceError("it is that of a program that was started by itself")
        }
        do {
            let fileSystem = try useFileSystem()
            try fileSystem.load(bytes)
        } catch {
            throw VirtioDeviceError("\(error)")
        }
    }
}
