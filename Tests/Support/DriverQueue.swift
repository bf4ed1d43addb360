public import Core

/// A piece of guest memory that a driver gives to a device.
public struct DriverBuffer: Sendable, BitwiseCopyable {
    public var address: GuestAddress
    public var length: UInt32

    public init(_ address: GuestAddress, _ length: UInt32) {
        self.address = address
        self.length = length
    }
}

/// A request that the device has finished.
public struct UsedRequest: Equatable, Sendable {
    /// What the driver gave to `add`.
    public var token: UInt64
    /// Bytes the device says it wrote.
    public var written: UInt32

    public init(token: UInt64, written: UInt32) {
        self.token = token
        self.written = written
    }
}

/// What a device did wrong.
public enum DriverQueueError: Error, Equatable, Sendable {
    /// It used a buffer that it does not have.
    case unknownID(UInt32)
    /// The used index is further ahead than buffers are under way.
    case usedIndexJumped(to: UInt16, expected: UInt16)
}

/// How a descriptor list is made.
public enum DescriptorStyle: Sendable, CaseIterable {
    /// A chain in the ring itself.
    case direct
    /// One descriptor that refers to a table.
    case indirect
    /// The first buffer in the ring, the others in a table (split rings only; otherwise
    /// `indirect`).
    case mixed
}

/// The driver's side of a virtqueue, split or packed as the features say: what a guest's kernel
/// does.
///
///     let scratch = try ScratchMemory()
///     let driver = DriverQueue(scratch, size: 16, features: VirtioFeature.eventIndex)
///     let queue = try Virtqueue(driver.setup(scratch.memory))
///     driver.add(readable: [header], writable: [data, status], token: 7)
///     if driver.publish() { kick.signal() }
///     ... the device works ...
///     while let used = try driver.popUsed() { used.token == 7 }
///
/// Nothing is allocated per request if buffers are passed as a span. One thread uses a queue.
public final class DriverQueue {
    // SAFETY: the pointee belongs to the queue, which makes it in `init` and ends it in `deinit`. A
    // pointer, because access to it costs neither reference counts nor exclusivity checks.
    @safe private enum Ring {
        case split(UnsafeMutablePointer<SplitDriver>)
        case packed(UnsafeMutablePointer<PackedDriver>)
    }

    public let layout: QueueLayout
    public let features: UInt64
    private let ring: Ring
    /// Keeps the ring mapped.
    private let memory: GuestMemory

    /// Lays out a ring in `scratch` and starts at `state`.
    /// - Parameters:
    ///   - tableSize: descriptors in each of the `size` indirect tables; 0 if none are wanted.
    ///   - state: where to start; a fresh ring by default. Nothing is outstanding there.
    ///   - alignment: of the ring's parts; by default what the specification asks for.
    public init(
        _ scratch: ScratchMemory, size: UInt16, features: UInt64, tableSize: Int = 0,
        state: QueueState? = nil, alignment: UInt64 = 4
    ) {
        self.features = features
        let count = Int(size)
        let isPacked = features & VirtioFeature.packedRing != 0
        layout = QueueLayout(
            size: size,
            descriptors: scratch.allocate(16 * count, alignment: max(alignment, 16)),
            driver: scratch.allocate(isPacked ? 4 : 6 + 2 * count, alignment: alignment),
            device: scratch.allocate(isPacked ? 4 : 6 + 8 * count, alignment: alignment))
        let tables = IndirectTables(scratch, count: count, size: tableSize)
        memory = scratch.memory
        if isPacked {
            let place = UnsafeMutablePointer<PackedDriver>.allocate(capacity: 1)
            unsafe place.initialize(
                to: PackedDriver(
                    layout, memory, features: features, tables: tables,
                    start: (state ?? .freshPacked).nextAvailable))
            ring = unsafe .packed(place)
        } else {
            let place = UnsafeMutablePointer<SplitDriver>.allocate(capacity: 1)
            unsafe place.initialize(
                to: SplitDriver(
                    layout, memory, features: features, tables: tables,
                    start: (state ?? .freshSplit).nextAvailable))
            ring = unsafe .split(place)
        }
    }

    deinit {
        switch ring {
        case .split(let driver):
            unsafe driver.deinitialize(count: 1)
            unsafe driver.deallocate()
        case .packed(let driver):
            unsafe driver.deinitialize(count: 1)
            unsafe driver.deallocate()
        }
    }

    /// What a device needs to serve this queue from where the driver stands.
    public func setup(
        _ memory: GuestMemory, kick: EventFD? = nil, call: EventFD? = nil
    ) -> QueueSetup {
        QueueSetup(
            layout: layout, features: features, memory: memory, state: state, kick: kick, call: call
        )
    }

    /// Where the next available and used entries are.
    public var state: QueueState {
        switch ring {
        case .split(let driver): unsafe driver.pointee.state
        case .packed(let driver): unsafe driver.pointee.state
        }
    }

    /// Descriptors of the ring that are free.
    public var freeCount: Int {
        switch ring {
        case .split(let driver): unsafe driver.pointee.freeCount
        case .packed(let driver): unsafe driver.pointee.freeCount
        }
    }

    /// Adds a request; the device sees it after `publish`.
    /// - Returns: whether there was room.
    @discardableResult
    public func add(
        readable: [DriverBuffer], writable: [DriverBuffer], style: DescriptorStyle = .direct,
        token: UInt64 = 0
    ) -> Bool {
        add((readable + writable).span, readableCount: readable.count, style: style, token: token)
    }

    /// Adds a request of `buffers` (at least one), of which the first `readableCount` are to be
    /// read.
    @discardableResult
    public func add(
        _ buffers: Span<DriverBuffer>, readableCount: Int, style: DescriptorStyle = .direct,
        token: UInt64 = 0
    ) -> Bool {
        switch ring {
        case .split(let driver):
            unsafe driver.pointee.add(
                buffers, readableCount: readableCount, style: style, token: token)
        case .packed(let driver):
            unsafe driver.pointee.add(
                buffers, readableCount: readableCount, style: style, token: token)
        }
    }

    /// Shows the device what was added.
    /// - Returns: whether the device wants a kick for it.
    public func publish() -> Bool {
        switch ring {
        case .split(let driver): unsafe driver.pointee.publish()
        case .packed(let driver): unsafe driver.pointee.publish()
        }
    }

    /// Takes the next finished request.
    public func popUsed() throws(DriverQueueError) -> UsedRequest? {
        switch ring {
        case .split(let driver): try unsafe driver.pointee.popUsed()
        case .packed(let driver): try unsafe driver.pointee.popUsed()
        }
    }

    /// Tells the device that the driver polls.
    public func disableCalls() {
        switch ring {
        case .split(let driver): unsafe driver.pointee.disableCalls()
        case .packed(let driver): unsafe driver.pointee.disableCalls()
        }
    }

    /// Asks for a call once `count` more ring entries have been used (with event indices; otherwise
    /// for every batch).
    /// - Returns: whether some have been used in the meantime already.
    public func enableCalls(after count: UInt16 = 1) -> Bool {
        switch ring {
        case .split(let driver): unsafe driver.pointee.enableCalls(after: count)
        case .packed(let driver): unsafe driver.pointee.enableCalls(after: count)
        }
    }
}
