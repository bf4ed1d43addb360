package import Core
internal import VhostUser

/// An entropy device (VIRTIO 1.3, section 5.4): fills the driver's buffers with random bytes.
package final class RandomDevice: VirtioDevice {
    /// The most that one buffer gets. The driver takes less than it asked for, and a guest cannot
    /// keep the thread busy for long.
    private static let bufferLimit = 64 << 10

    private let source: RandomSource
    private let options: RandomOptions
    private let loop: EventLoop
    private let chain = DescriptorChain(capacity: 4)
    /// Takes memory as far as drivers ask for bytes at once.
    private let buffer: MemoryMapping
    private var queue: LoopQueue?
    /// A chain that waits in `chain` for bytes.
    private var isWaiting = false
    /// What may still be given in this period.
    private var budget: UInt64
    private var refill: EventRegistration?

    package let deviceID = VirtioDeviceID.entropy
    package let features = VirtioFeature.everyDevice | VirtioFeature.inOrder
    package let queueCount = 1
    package let canSaveState = true

    init(
        _ source: RandomSource, _ options: RandomOptions, loop: EventLoop
    ) throws(SystemError) {
        buffer = try MemoryMapping(anonymous: Self.bufferLimit)
        self.source = source
        self.options = options
        self.loop = loop
        budget = options.bytesPerPeriod ?? .max
    }

    package func maximumQueueSize(_ queue: Int) -> UInt16 { 256 }
    package func readConfig(offset: Int, count: Int) -> [UInt8] { [] }
    package func writeConfig(offset: Int, _ bytes: [UInt8]) {}
    package func setFeatures(_ features: UInt64) throws(VirtioDeviceError) {}

    package func startQueue(_ index: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        guard index == 0, queue == nil else {
            throw VirtioDeviceError("queue \(index) cannot be started")
        }
        queue = try LoopQueue(setup, index: index, on: loop) { [unowned self] in serve() }
    }

    package func stopQueue(_ index: Int) -> QueueState {
        guard index == 0, let running = queue else { return .freshSplit }
        source.stopWaiting()
        // Drivers do not expect a buffer without bytes (VIRTIO 1.3, section 5.4.6.1), and Linux's would
        // never ask again. It stays in the ring.
        if isWaiting { running.rewind() }
        isWaiting = false
        queue = nil
        return running.stop()
    }

    package func reset() { _ = stopQueue(0) }

    private func serve() {
        guard let queue, !source.isWaited else { return }
        while isWaiting || queue.pop(into: chain) {
            isWaiting = true
            guard fillChain() else { break }
        }
        queue.publish()
    }

    /// Gives `chain` back with what there is for it.
    /// - Returns: whether there was something; if not, `serve` will be called when there may be.
    private func fillChain() -> Bool {
        let wanted = min(chain.writableLength, UInt64(Self.bufferLimit))
        if wanted == 0 {
            give(0)
            return true
        }
        if budget == 0 {
            waitForBudget()
            return false
        }
        // SAFETY: the buffer has `bufferLimit` bytes, and is used on this thread only.
        let bytes = unsafe UnsafeMutableRawBufferPointer(
            start: buffer.base, count: Int(min(wanted, budget)))
        let count = unsafe source.fill(bytes)
        if count == 0 {
            source.wait(on: loop) { [unowned self] in serve() }
            return false
        }
        let written = unsafe chain.write(
            at: 0, from: UnsafeRawBufferPointer(rebasing: bytes.prefix(count)))
        give(UInt32(truncatingIfNeeded: written))
        return true
    }

    private func give(_ count: UInt32) {
        isWaiting = false
        if options.bytesPerPeriod != nil { budget -= min(budget, UInt64(count)) }
        queue?.push(chain, written: count)
    }

    private func waitForBudget() {
        guard refill == nil, let limit = options.bytesPerPeriod else { return }
        refill = loop.after(milliseconds: options.periodMilliseconds) { [unowned self] in
            refill = nil
            budget = limit
            serve()
        }
    }
}
