/// A device type's number (VIRTIO 1.3, section 5).
public struct VirtioDeviceID: Hashable, Sendable {
    public let rawValue: UInt16

    public init(_ rawValue: UInt16) { self.rawValue = rawValue }

    public static let net = VirtioDeviceID(1)
    public static let block = VirtioDeviceID(2)
    public static let console = VirtioDeviceID(3)
    public static let entropy = VirtioDeviceID(4)
    public static let vsock = VirtioDeviceID(19)
    public static let fs = VirtioDeviceID(26)
}

/// Feature bits that mean the same for every device (VIRTIO 1.3, section 6), as masks.
public enum VirtioFeature {
    public static let indirectDescriptors: UInt64 = 1 << 28
    public static let eventIndex: UInt64 = 1 << 29
    public static let version1: UInt64 = 1 << 32
    public static let accessPlatform: UInt64 = 1 << 33
    public static let packedRing: UInt64 = 1 << 34
    public static let inOrder: UInt64 = 1 << 35
    public static let notificationData: UInt64 = 1 << 38
    public static let ringReset: UInt64 = 1 << 40

    /// What a device offers whose rings are `Virtqueue`s and are stopped and started one by one. Of
    /// what a notification carries it makes no use.
    public static let everyDevice =
        version1 | indirectDescriptors | eventIndex | packedRing | ringReset | notificationData
}

/// Where the parts of a virtqueue are, by guest-physical address (VIRTIO 1.3, sections 2.7, 2.8).
public struct QueueLayout: Equatable, Sendable {
    /// Entries; a power of two for split rings, 1-32768.
    public var size: UInt16
    /// The descriptor table or the packed descriptor ring.
    public var descriptors: GuestAddress
    /// The available ring or the driver's event suppression structure.
    public var driver: GuestAddress
    /// The used ring or the device's event suppression structure.
    public var device: GuestAddress

    public init(
        size: UInt16, descriptors: GuestAddress, driver: GuestAddress, device: GuestAddress
    ) {
        self.size = size
        self.descriptors = descriptors
        self.driver = driver
        self.device = device
    }
}

/// How far a queue has got: what a stopped queue leaves and a started one begins with.
public struct QueueState: Equatable, Sendable {
    /// The next available entry. Split: a free-running index. Packed: bits 0-14 the position,
    /// bit 15 the wrap counter.
    public var nextAvailable: UInt16
    /// The next used entry, in the same form.
    public var nextUsed: UInt16

    public init(nextAvailable: UInt16, nextUsed: UInt16) {
        self.nextAvailable = nextAvailable
        self.nextUsed = nextUsed
    }

    /// Of a queue that has never been used, with the features that the driver accepted.
    public static func fresh(features: UInt64) -> QueueState {
        features & VirtioFeature.packedRing != 0 ? freshPacked : freshSplit
    }

    public static let freshSplit = QueueState(nextAvailable: 0, nextUsed: 0)
    /// Both wrap counters start at one (VIRTIO 1.3, section 2.8.1).
    public static let freshPacked = QueueState(nextAvailable: 0x8000, nextUsed: 0x8000)
}

/// Everything a device needs to serve one queue.
public struct QueueSetup: Sendable {
    public var layout: QueueLayout
    /// The features that the driver accepted.
    public var features: UInt64
    public var memory: GuestMemory
    public var state: QueueState
    /// Signalled by the driver's side; `nil` if the ring is to be polled.
    public var kick: EventFD?
    /// Signalled by the device's side; `nil` if the driver polls.
    public var call: EventFD?
    /// Where writes to guest memory are recorded during migration.
    public var dirtyLog: DirtyLog?
    /// The address in the dirty log of the used ring (packed: of the descriptor ring, where used
    /// descriptors are written), where that is logged as well.
    public var usedLogAddress: GuestAddress?
    /// Signalled when the dirty log may have changed.
    public var dirtyLogEvent: EventFD?
    /// Signalled when the queue breaks; the queue itself does that.
    public var error: EventFD?
    /// Where the queue notes what is in flight; what it finds there overrides `state`.
    public var inflight: InflightRegion?
    /// What the driver's addresses of buffers lead through; `nil` if they are guest addresses.
    public var iotlb: IOTLBClient?
    /// Buffers that are not in memory are left out of their chain, which says so
    /// (`DescriptorChain.isWhole`), instead of breaking the queue: they may be a guest's process's
    /// doing, who uses what it has mapped of a device's shared memory. Not behind an IOMMU.
    public var leavesOutUnreachable = false

    public init(
        layout: QueueLayout, features: UInt64, memory: GuestMemory, state: QueueState,
        kick: EventFD?, call: EventFD?
    ) {
        self.layout = layout
        self.features = features
        self.memory = memory
        self.state = state
        self.kick = kick
        self.call = call
    }

    public var isPacked: Bool { features & VirtioFeature.packedRing != 0 }

    /// Nobody has served the queue before.
    public var isFresh: Bool {
        inflight?.hasHistory != true && state == .fresh(features: features)
    }
}

/// A device could not do what its driver or its front end asked.
public struct VirtioDeviceError: Error, Sendable, CustomStringConvertible {
    public let description: String

    public init(_ description: String) { self.description = description }
}

/// What a virtio device can be told, whoever tells it: a virtio-pci transport, a vhost-user
/// connection, or a test. In-process devices, proxies of backend processes and the devices inside
/// backends implement the same verbs.
///
/// Queues are started and stopped one by one; that is also how the device is paused, migrated,
/// reset and reconnected. All calls come from one thread (the control plane's), and `stopQueue`
/// returns only when nothing of that queue touches guest memory any more.
public protocol VirtioDevice: AnyObject {
    var deviceID: VirtioDeviceID { get }
    /// The feature bits on offer.
    var features: UInt64 { get }
    var queueCount: Int { get }
    func maximumQueueSize(_ queue: Int) -> UInt16

    /// The bytes of the device's configuration space from `offset`; shorter than `count` where the
    /// space ends.
    func readConfig(offset: Int, count: Int) -> [UInt8]
    /// Writes to the configuration space. Bytes outside it or read-only are ignored.
    func writeConfig(offset: Int, _ bytes: [UInt8])

    /// The driver has accepted `features` (a subset of what was offered).
    func setFeatures(_ features: UInt64) throws(VirtioDeviceError)
    func startQueue(_ queue: Int, _ setup: QueueSetup) throws(VirtioDeviceError)
    /// Stops a queue and says how far it got; what was taken from it has been completed.
    func stopQueue(_ queue: Int) -> QueueState
    /// Stops a queue that has a `QueueSetup.inflight` without finishing what was taken: whoever
    /// starts it next finds that there. A device that is done soon anyway may finish it instead.
    func suspendQueue(_ queue: Int) -> QueueState
    /// Back to the state after creation; stops all queues.
    func reset()

    /// What only network devices are told; `nil` for others.
    var network: (any NetworkVerbs)? { get }

    /// Whether queues have threads of their own, which can wait for an IOMMU's translations.
    var servesOnThreads: Bool { get }

    /// The sizes of the regions of memory that the device shares with its driver, by their number
    /// (VIRTIO 1.3, section 2.10); 0: there is none of that number. Multiples of 4 KiB.
    var sharedRegions: [UInt64] { get }
    /// How the device changes those regions from now on; `nil`: it cannot, or not any more. Comes
    /// before queues are started.
    func useSharedMemory(_ channel: (any SharedMemoryChannel)?)

    /// Whether another process can take over all that there is: `saveState` has it.
    var canSaveState: Bool { get }
    /// What another device of the kind needs to go on, apart from what the driver's side can tell
    /// it. No queue runs.
    /// - Throws: why there is none; the device goes on as before when queues are started again.
    func saveState() throws(VirtioDeviceError) -> [UInt8]
    /// Takes over what `saveState` gave, perhaps that of another version of the program. No queue
    /// runs; features may still have to be set. What cannot be used changes nothing.
    func loadState(_ bytes: [UInt8]) throws(VirtioDeviceError)
}

/// What a front end can ask of a network device besides.
public protocol NetworkVerbs: AnyObject {
    /// Tells the network that the guest with this address (six bytes) is here now.
    func announce(_ address: [UInt8])
    /// The front end's network takes packets of this size.
    func setMTU(_ size: UInt16) throws(VirtioDeviceError)
}

/// Devices that are no network devices, share no memory of their own, have no state and finish soon
/// what they take.
extension VirtioDevice {
    public var network: (any NetworkVerbs)? { nil }
    public var servesOnThreads: Bool { false }
    public func suspendQueue(_ queue: Int) -> QueueState { stopQueue(queue) }
    public var sharedRegions: [UInt64] { [] }
    public func useSharedMemory(_ channel: (any SharedMemoryChannel)?) {}
    public var canSaveState: Bool { false }
    public func saveState() -> [UInt8] { [] }
    public func loadState(_ bytes: [UInt8]) throws(VirtioDeviceError) {
        guard bytes.isEmpty else { throw VirtioDeviceError("the device has no state to load") }
    }
}
