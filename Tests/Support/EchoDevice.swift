package import Core

/// A device whose queues give back the inverted bytes that they are sent. It lives on the loop's
/// thread.
package final class EchoDevice: VirtioDevice {
    private struct Running {
        let queue: Virtqueue
        let watch: EventRegistration?
        var taken: [DescriptorChain] = []
    }

    private let loop: EventLoop
    private var running: [Int: Running] = [:]

    package let deviceID = VirtioDeviceID(42)
    package var features: UInt64 = VirtioFeature.everyDevice
    package let queueCount: Int
    package var config: [UInt8] = Array(0..<16)
    /// Refuses to give more of its configuration space than there is.
    package var isStrict = false
    /// Takes requests, but does not finish them.
    package var isHolding = false
    /// Forgets what it has taken when a queue is stopped, as a killed process would.
    package var isDead = false
    /// Leaves what it has taken to another device when a queue is suspended.
    package var canSuspend = false
    /// Finishes requests without a call.
    package var isSilent = false
    /// What other devices of the kind take over.
    package var state: [UInt8] = []
    package var refusesState = false
    package var keepsState = false
    package let canSaveState = true
    package var sharedRegions: [UInt64] = []
    package private(set) var channel: (any SharedMemoryChannel)?
    /// Called when a queue is stopped.
    package var onStop: (() -> Void)?
    package private(set) var acceptedFeatures: UInt64?
    package private(set) var starts = 0
    package private(set) var resets = 0
    package private(set) var setups: [Int: QueueSetup] = [:]
    /// The requests in the order in which they were taken.
    package private(set) var log: [[UInt8]] = []

    package init(on loop: EventLoop, queueCount: Int = 2) {
        self.loop = loop
        self.queueCount = queueCount
    }

    package var runningQueues: Set<Int> { Set(running.keys) }

    package func maximumQueueSize(_ queue: Int) -> UInt16 { 256 }

    package func readConfig(offset: Int, count: Int) -> [UInt8] {
        guard offset < config.count, !isStrict || count <= config.count - offset else { return [] }
        return Array(config[offset..<min(config.count, offset + count)])
    }

    /// The last four bytes are read-only.
    package func writeConfig(offset: Int, _ bytes: [UInt8]) {
        for (index, byte) in bytes.enumerated() where offset + index < config.count - 4 {
            config[offset + index] = byte
        }
    }

    package func useSharedMemory(_ channel: (any SharedMemoryChannel)?) { self.channel = channel }

    package func setFeatures(_ features: UInt64) throws(VirtioDeviceError) {
        acceptedFeatures = features
    }

    package func startQueue(_ queue: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        guard running[queue] == nil else { throw VirtioDeviceError("queue \(queue) runs already") }
        starts += 1
        setups[queue] = setup
        let virtqueue: Virtqueue
        do {
            virtqueue = try Virtqueue(setup)
        } catch {
            throw VirtioDeviceError("\(error)")
        }
        let watch = setup.kick.map { kick in
            loop.watch(kick.rawValue, for: .readable) { [unowned self] _ in
                kick.drain()
                serve(queue)
            }
        }
        running[queue] = Running(queue: virtqueue, watch: watch)
    }

    package func stopQueue(_ queue: Int) -> QueueState { stop(queue, leaves: isDead) }

    package func suspendQueue(_ queue: Int) -> QueueState { stop(queue, leaves: canSuspend) }

    private func stop(_ queue: Int, leaves: Bool) -> QueueState {
        guard let stopped = running[queue] else { return .freshSplit }
        onStop?()
        if !leaves { finish(queue) }
        running[queue] = nil
        return stopped.queue.state
    }

    package func reset() {
        for queue in running.keys { _ = stopQueue(queue) }
        resets += 1
    }

    package func saveState() throws(VirtioDeviceError) -> [UInt8] {
        if keepsState { throw VirtioDeviceError("kept") }
        return state
    }

    package func loadState(_ bytes: [UInt8]) throws(VirtioDeviceError) {
        if refusesState { throw VirtioDeviceError("refused") }
        state = bytes
    }

    /// Takes all requests there are.
    package func serve(_ queue: Int) {
        guard let virtqueue = running[queue]?.queue else { return }
        repeat {
            virtqueue.disableNotifications()
            while true {
                let chain = DescriptorChain()
                guard (try? virtqueue.pop(into: chain)) == true else { break }
                log.append(chain.readBytes(at: 0, count: 4096))
                running[queue]?.taken.append(chain)
            }
        } while virtqueue.enableNotifications()
        if !isHolding { finish(queue) }
    }

    /// Finishes what was taken.
    package func finish(_ queue: Int) {
        finishOnly(queue, Array(0..<heldCount(queue)))
    }

    /// How many requests are taken and not finished.
    package func heldCount(_ queue: Int) -> Int { running[queue]?.taken.count ?? 0 }

    /// Finishes some of the requests, by their position, in the given order.
    package func finishOnly(_ queue: Int, _ positions: [Int]) {
        guard let current = running[queue] else { return }
        for position in positions where current.taken.indices.contains(position) {
            let chain = current.taken[position]
            let reply = chain.readBytes(at: 0, count: 4096).map { ~$0 }
            current.queue.push(chain, written: UInt32(chain.write(at: 0, reply)))
        }
        running[queue]?.taken = current.taken.enumerated()
            .filter { !positions.contains($0.offset) }.map { $0.element }
        if current.queue.publish(), !isSilent { current.queue.setup.call?.signal() }
    }
}
