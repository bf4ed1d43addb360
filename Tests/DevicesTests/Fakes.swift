import Accelerator
import Core
import Devices
import Synchronization

/// A virtual machine without CPUs that remembers what it was asked.
final class FakeMachine: VirtualMachine {
    struct State {
        var messages: [MSIMessage] = []
        var boundInterrupts: [ObjectIdentifier: MSIMessage] = [:]
        var boundNotifies: [UInt64: ObjectIdentifier] = [:]
    }

    let canBind: Bool
    /// How many notifications can be bound at once.
    let notifyLimit: Int
    let state = Mutex(State())

    init(canBind: Bool = false, notifyLimit: Int = .max) {
        self.canBind = canBind
        self.notifyLimit = notifyLimit
    }

    /// The messages since the last call.
    func takeMessages() -> [MSIMessage] {
        state.withLock { state in
            defer { state.messages = [] }
            return state.messages
        }
    }

    /// The vectors of those messages.
    func takeVectors() -> [UInt8] {
        takeMessages().map { UInt8(truncatingIfNeeded: $0.data) }
    }

    func makeVCPU(index: Int) throws(AcceleratorError) -> any VirtualCPU {
        throw AcceleratorError("no CPUs here")
    }

    func signalMSI(address: UInt64, data: UInt32) {
        state.withLock { $0.messages.append(MSIMessage(address: address, data: data)) }
    }

    func bindInterrupt(_ event: EventFD, address: UInt64, data: UInt32) -> Bool {
        guard canBind else { return false }
        state.withLock {
            $0.boundInterrupts[ObjectIdentifier(event)] = MSIMessage(address: address, data: data)
        }
        return true
    }

    func unbindInterrupt(_ event: EventFD) {
        state.withLock { $0.boundInterrupts[ObjectIdentifier(event)] = nil }
    }

    func bindNotify(_ event: EventFD, address: GuestAddress) -> Bool {
        guard canBind else { return false }
        return state.withLock { state in
            guard state.boundNotifies.count < notifyLimit else { return false }
            state.boundNotifies[address.rawValue] = ObjectIdentifier(event)
            return true
        }
    }

    func unbindNotify(_ event: EventFD, address: GuestAddress) {
        state.withLock { $0.boundNotifies[address.rawValue] = nil }
    }

    func memoryChangedOutside() {}
}

/// A control plane without a thread: work is done at once, and `poll` serves what is watched.
final class InlineControlPlane: ControlPlane {
    private typealias Watch = (event: EventFD, handler: @Sendable () -> Void)
    private let watches = Mutex<[ObjectIdentifier: Watch]>([:])

    var watchCount: Int { watches.withLock { $0.count } }

    func perform(_ work: @escaping @Sendable () -> Void) { work() }

    func watch(_ event: EventFD, _ handler: @escaping @Sendable () -> Void) {
        watches.withLock { $0[ObjectIdentifier(event)] = (event, handler) }
    }

    func unwatch(_ event: EventFD) {
        watches.withLock { $0[ObjectIdentifier(event)] = nil }
    }

    /// Calls all handlers; they look themselves whether anything has happened.
    func poll() {
        for watch in watches.withLock({ Array($0.values) }) { watch.handler() }
    }
}

/// A device that remembers what its transport asked.
final class RecordingDevice: VirtioDevice {
    enum Call: Equatable {
        case setFeatures(UInt64)
        case start(Int, QueueLayout, QueueState)
        case stop(Int)
        case reset
        case writeConfig(Int, [UInt8])
    }

    let deviceID = VirtioDeviceID.block
    var features: UInt64 = VirtioFeature.version1 | VirtioFeature.ringReset | 0b1010
    let queueCount: Int
    var config: [UInt8] = Array(0..<24)
    var calls: [Call] = []
    var setups: [Int: QueueSetup] = [:]
    var failingQueue: Int?
    var refusesFeatures = false

    init(queueCount: Int = 2) { self.queueCount = queueCount }

    func takeCalls() -> [Call] {
        defer { calls = [] }
        return calls
    }

    func maximumQueueSize(_ queue: Int) -> UInt16 { 256 }

    func readConfig(offset: Int, count: Int) -> [UInt8] {
        guard offset < config.count else { return [] }
        return Array(config[offset..<min(config.count, offset + count)])
    }

    func writeConfig(offset: Int, _ bytes: [UInt8]) { calls.append(.writeConfig(offset, bytes)) }

    func setFeatures(_ features: UInt64) throws(VirtioDeviceError) {
        calls.append(.setFeatures(features))
        if refusesFeatures { throw VirtioDeviceError("refused") }
    }

    func startQueue(_ queue: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        calls.append(.start(queue, setup.layout, setup.state))
        if queue == failingQueue { throw VirtioDeviceError("no such addresses") }
        setups[queue] = setup
    }

    func stopQueue(_ queue: Int) -> QueueState {
        calls.append(.stop(queue))
        setups[queue] = nil
        return .freshSplit
    }

    func reset() {
        calls.append(.reset)
        setups = [:]
    }
}

/// Reads and writes that go to one device or bus, with the sizes in their names.
struct RegisterWindow {
    let readBytes: (UInt64, Int) -> UInt64
    let writeBytes: (UInt64, Int, UInt64) -> MachineEffect

    init(_ bus: Bus, base: UInt64 = 0) {
        readBytes = { bus.read(base &+ $0, size: $1) }
        writeBytes = { bus.write(base &+ $0, size: $1, $2) }
    }

    init(_ device: any BusDevice) {
        readBytes = { device.read(offset: $0, size: $1) }
        writeBytes = { device.write(offset: $0, size: $1, $2) }
    }

    func read8(_ offset: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: readBytes(offset, 1)) }
    func read16(_ offset: UInt64) -> UInt16 { UInt16(truncatingIfNeeded: readBytes(offset, 2)) }
    func read32(_ offset: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: readBytes(offset, 4)) }

    @discardableResult
    func write8(_ offset: UInt64, _ value: UInt8) -> MachineEffect {
        writeBytes(offset, 1, UInt64(value))
    }

    @discardableResult
    func write16(_ offset: UInt64, _ value: UInt16) -> MachineEffect {
        writeBytes(offset, 2, UInt64(value))
    }

    @discardableResult
    func write32(_ offset: UInt64, _ value: UInt32) -> MachineEffect {
        writeBytes(offset, 4, UInt64(value))
    }
}
