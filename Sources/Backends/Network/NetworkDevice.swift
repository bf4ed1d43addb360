package import Core
internal import Synchronization
internal import VhostUser

/// A virtio network device (VIRTIO 1.3, section 5.1). After the pairs of queues there is one more queue,
/// by which the driver says how many of them it uses, and which frames it wants.
package final class NetworkDevice: VirtioDevice, NetworkVerbs {
    private let options: NetworkOptions
    private let pairs: [any QueuePair]
    private let loop: EventLoop
    private let link: LinkState
    private var running: [Bool]
    private var control: ControlQueue?
    /// What the driver has accepted.
    private var accepted: UInt64 = 0
    /// What the driver has asked for; `nil` if that is not known, because another process was told.
    private var commands: ControlState?
    /// Where that is noted for the next process.
    private var note: ControlNote?

    package let deviceID = VirtioDeviceID.net
    package let features: UInt64

    /// Whether there is somebody at the other end of the up-link, as the first pair finds out.
    private final class LinkState: Sendable {
        let isUp = Atomic(false)
        /// The driver is to tell the network that it is there, and has not said that it did.
        let wantsAnnouncement = Atomic(false)
    }

    /// - Parameters:
    ///   - loop: the control thread's.
    ///   - pairFilter: what the threads of pairs restrict themselves with.
    ///   - note: where processes for this device note what its driver has asked for.
    ///   - configChanged: called on the control thread when the up-link has come or gone.
    convenience init(
        _ options: NetworkOptions, _ files: LinkFiles, on loop: EventLoop,
        pairFilter: SeccompFilter? = nil, note: ControlNote? = nil,
        configChanged: @escaping () -> Void = {}
    ) throws {
        let factory = LinkFactory(options, files, filter: pairFilter)
        try self.init(
            options, features: factory.features, on: loop, note: note,
            configChanged: configChanged, makePairs: factory.makePairs)
    }

    /// - Parameters:
    ///   - features: what the up-link has for drivers.
    ///   - makePairs: makes the queues' side, which calls the closure it gets.
    init(
        _ options: NetworkOptions, features: UInt64, on loop: EventLoop,
        note: ControlNote? = nil, configChanged: @escaping () -> Void,
        makePairs: (@escaping @Sendable (Bool) -> Void) throws -> [any QueuePair]
    ) throws {
        self.options = options
        self.loop = loop
        self.note = note
        let link = LinkState()
        self.link = link
        // SAFETY: called on the control thread only, which also made it.
        nonisolated(unsafe) let configChanged = configChanged
        pairs = try makePairs { isUp in
            link.isUp.store(isUp, ordering: .relaxed)
            // Who is there now may not know where the interface is.
            link.wantsAnnouncement.store(isUp, ordering: .relaxed)
            loop.post { unsafe configChanged() }
        }
        running = [Bool](repeating: false, count: 2 * pairs.count + 1)
        self.features = features | Self.features(options, pairCount: pairs.count)
        if let known = note?.bytes { commands = try? ControlState(known) }
        obey()
    }

    private static func features(_ options: NetworkOptions, pairCount: Int) -> UInt64 {
        var features =
            VirtioFeature.everyDevice | NetworkFeature.mergeableBuffers | NetworkFeature.status
            | NetworkFeature.controlQueue | NetworkFeature.controlReceive
            | NetworkFeature.controlVLAN | NetworkFeature.announce
        if options.mac != nil { features |= NetworkFeature.mac | NetworkFeature.controlAddress }
        if options.mtu != nil { features |= NetworkFeature.mtu }
        if pairCount > 1 { features |= NetworkFeature.multiQueue }
        return features
    }

    deinit { stop() }

    package var queueCount: Int { running.count }

    package func maximumQueueSize(_ queue: Int) -> UInt16 { options.maximumQueueSize }

    package func readConfig(offset: Int, count: Int) -> [UInt8] {
        let mayAnnounce = accepted & NetworkFeature.announce != 0
        let config = NetworkConfig(
            mac: commands?.address ?? options.mac, isUp: link.isUp.load(ordering: .relaxed),
            wantsAnnouncement: mayAnnounce && link.wantsAnnouncement.load(ordering: .relaxed),
            pairCount: UInt16(clamping: pairs.count), mtu: options.mtu ?? 0)
        return config.space.read(offset: offset, count: count)
    }

    package func writeConfig(offset: Int, _ bytes: [UInt8]) {}

    package func setFeatures(_ features: UInt64) throws(VirtioDeviceError) {
        guard features & ~self.features == 0 else {
            throw VirtioDeviceError(
                "features 0x\(String(features & ~self.features, radix: 16)) are not on offer")
        }
        // What is accepted first may be what a driver has told another process.
        let isNew = accepted != 0 || features & NetworkFeature.controlQueue == 0
        accepted = features
        if isNew { forgetCommands() }
    }

    /// The driver begins anew.
    private func forgetCommands() {
        commands = nil
        note?.clear()
        obey()
    }

    /// Does as the driver has asked. Where that is not known, all frames are better than too few.
    private func obey() {
        let filter = commands?.filter
        for pair in pairs { pair.filter(filter?.isActive == true ? filter : nil) }
        steer()
    }

    // MARK: Network

    package var network: (any NetworkVerbs)? { self }

    package func announce(_ address: [UInt8]) {
        do {
            try pairs[0].send(
                Announcement(of: address, headerSize: FrameHeader.size(features: accepted)))
        } catch {
            networkLog(.warning, "the guest's place in the network is not announced: \(error)")
        }
    }

    package func setMTU(_ size: UInt16) throws(VirtioDeviceError) {
        let limit = options.mtu ?? .max
        guard size >= 68, size <= limit else {
            throw VirtioDeviceError("an MTU of \(size) is not 68 to \(limit)")
        }
    }

    // MARK: Queues

    /// What a queue is for. The control queue comes after those of the pairs that the driver knows
    /// (VIRTIO 1.3, section 5.1.2).
    private enum Role {
        case pair(Int, Direction)
        case control
    }

    private func role(_ queue: Int) -> Role? {
        guard running.indices.contains(queue) else { return nil }
        let known = accepted & NetworkFeature.multiQueue != 0 ? pairs.count : 1
        if accepted & NetworkFeature.controlQueue != 0, queue == 2 * known { return .control }
        guard queue / 2 < known, let direction = Direction(rawValue: queue & 1) else { return nil }
        return .pair(queue / 2, direction)
    }

    package func startQueue(_ queue: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        guard let role = role(queue) else {
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
        switch role {
        case .control: try startControl(queue, setup)
        case .pair(let index, let direction):
            try pairs[index].start(direction, Self.ring(queue, setup))
        }
        running[queue] = true
        steer()
    }

    private func startControl(_ queue: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        if setup.isFresh {
            commands = ControlState(options)
            obey()
        }
        control = try ControlQueue(
            setup, index: queue, on: loop, pairCount: pairs.count,
            filter: commands?.filter ?? ReceiveFilter()
        ) { [unowned self] event in
            if case .announced = event { link.wantsAnnouncement.store(false, ordering: .relaxed) }
            guard var new = commands else { return }
            switch event {
            case .pairs(let count): new.activeCount = UInt16(clamping: count)
            case .filter(let filter): new.filter = filter
            case .address(let address): new.address = address
            case .announced: return
            }
            commands = new
            note?.write(new.bytes)
            obey()
        }
    }

    private static func ring(
        _ queue: Int, _ setup: QueueSetup
    ) throws(VirtioDeviceError) -> Virtqueue {
        guard setup.kick != nil else {
            throw VirtioDeviceError("queue \(queue) has no kick descriptor, and is not polled")
        }
        do throws(QueueError) {
            return try Virtqueue(setup)
        } catch {
            throw VirtioDeviceError("queue \(queue): \(error)")
        }
    }

    package func stopQueue(_ queue: Int) -> QueueState {
        guard let role = role(queue), running[queue] else { return .freshSplit }
        running[queue] = false
        steer()
        switch role {
        case .control:
            defer { control = nil }
            return control?.stop() ?? .freshSplit
        case .pair(let index, let direction): return pairs[index].stop(direction) ?? .freshSplit
        }
    }

    /// Lets frames come to the pairs that the driver uses. A front end that has the control queue
    /// to itself starts those only. What another process was told is still so, in the kernel.
    private func steer() {
        let isTold = accepted & NetworkFeature.controlQueue != 0
        if isTold, control == nil { return }
        guard let count = isTold ? commands.map({ Int($0.activeCount) }) : pairs.count else {
            return
        }
        for (index, pair) in pairs.enumerated().dropFirst() {
            pair.attach(running[2 * index] && index < count)
        }
    }

    package func reset() {
        stop()
        forgetCommands()
    }

    private func stop() {
        for queue in running.indices { _ = stopQueue(queue) }
    }

    // MARK: In another process

    /// Not in a switch: one front end could keep its thread waiting with what it hands over.
    package var canSaveState = true

    package func saveState() -> [UInt8] {
        // It is noted by another process from now on.
        note = nil
        var writer = WireWriter()
        for block in [commands?.bytes ?? [], pairs[0].unsent] {
            writer.append(UInt32(clamping: block.count))
            writer.append(block)
        }
        return writer.bytes
    }

    package func loadState(_ bytes: [UInt8]) throws(VirtioDeviceError) {
        do {
            var reader = WireReader("network state", bytes)
            let known = try reader.block("commands")
            let unsent = try reader.block("unsent")
            try reader.finish()
            // With the length before it.
            guard UInt64(unsent.count) <= FrameLimit.maximum + 4 else {
                throw VirtioDeviceError("\(unsent.count) bytes are more than a frame")
            }
            commands = known.isEmpty ? nil : try ControlState(known)
            pairs[0].unsent = unsent
        } catch {
            throw VirtioDeviceError("\(error)")
        }
        if let commands { note?.write(commands.bytes) } else { note?.clear() }
        obey()
    }
}
