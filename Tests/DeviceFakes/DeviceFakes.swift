package import Accelerator
package import Core
package import Devices
package import Synchronization

/// A virtual machine without CPUs that remembers what it was asked.
package final class FakeMachine: VirtualMachine {
    package struct State {
        package var messages: [MSIMessage] = []
        package var boundInterrupts: [ObjectIdentifier: MSIMessage] = [:]
        package var boundNotifies: [UInt64: ObjectIdentifier] = [:]
        package var windows: [ObjectIdentifier: UInt64] = [:]
    }

    package let canBind: Bool
    /// How many notifications can be bound at once.
    package let notifyLimit: Int
    package let state = Mutex(State())

    package init(canBind: Bool = false, notifyLimit: Int = .max) {
        self.canBind = canBind
        self.notifyLimit = notifyLimit
    }

    /// The messages since the last call.
    package func takeMessages() -> [MSIMessage] {
        state.withLock { state in
            defer { state.messages = [] }
            return state.messages
        }
    }

    /// The vectors of those messages.
    package func takeVectors() -> [UInt8] {
        takeMessages().map { UInt8(truncatingIfNeeded: $0.data) }
    }

    package func makeVCPU(index: Int) throws(AcceleratorError) -> any VirtualCPU {
        throw AcceleratorError("no CPUs here")
    }

    package func signalMSI(address: UInt64, data: UInt32) {
        state.withLock { $0.messages.append(MSIMessage(address: address, data: data)) }
    }

    package func bindInterrupt(_ event: EventFD, address: UInt64, data: UInt32) -> Bool {
        guard canBind else { return false }
        state.withLock {
            $0.boundInterrupts[ObjectIdentifier(event)] = MSIMessage(address: address, data: data)
        }
        return true
    }

    package func unbindInterrupt(_ event: EventFD) {
        state.withLock { $0.boundInterrupts[ObjectIdentifier(event)] = nil }
    }

    package func bindNotify(_ event: EventFD, address: GuestAddress) -> Bool {
        guard canBind else { return false }
        return state.withLock { state in
            guard state.boundNotifies.count < notifyLimit else { return false }
            state.boundNotifies[address.rawValue] = ObjectIdentifier(event)
            return true
        }
    }

    package func unbindNotify(_ event: EventFD, address: GuestAddress) {
        state.withLock { $0.boundNotifies[address.rawValue] = nil }
    }

    package func place(_ window: SharedWindow, at address: GuestAddress?) -> Bool {
        state.withLock { $0.windows[ObjectIdentifier(window)] = address?.rawValue }
        return true
    }

    package func memoryChangedOutside() {}
}

/// A control plane without a thread: work is done at once, and `poll` serves what is watched.
package final class InlineControlPlane: ControlPlane {
    private typealias Watch = (event: EventFD, handler: @Sendable () -> Void)
    private let watches = Mutex<[ObjectIdentifier: Watch]>([:])

    package init() {}

    package var watchCount: Int { watches.withLock { $0.count } }

    package func perform(_ work: @escaping @Sendable () -> Void) { work() }

    package func watch(_ event: EventFD, _ handler: @escaping @Sendable () -> Void) {
        watches.withLock { $0[ObjectIdentifier(event)] = (event, handler) }
    }

    package func unwatch(_ event: EventFD) {
        watches.withLock { $0[ObjectIdentifier(event)] = nil }
    }

    /// Calls all handlers; they look themselves whether anything has happened.
    package func poll() {
        for watch in watches.withLock({ Array($0.values) }) { watch.handler() }
    }
}

/// A device that remembers what its transport asked.
package final class RecordingDevice: VirtioDevice {
    package enum Call: Equatable {
        case setFeatures(UInt64)
        case start(Int, QueueLayout, QueueState)
        case stop(Int)
        case reset
        case writeConfig(Int, [UInt8])
    }

    package let deviceID = VirtioDeviceID.block
    package var features: UInt64 = VirtioFeature.version1 | VirtioFeature.ringReset | 0b1010
    package let queueCount: Int
    package var config: [UInt8] = Array(0..<24)
    package var calls: [Call] = []
    package var setups: [Int: QueueSetup] = [:]
    package var failingQueue: Int?
    package var refusesFeatures = false

    package init(queueCount: Int = 2) { self.queueCount = queueCount }

    package func takeCalls() -> [Call] {
        defer { calls = [] }
        return calls
    }

    package func maximumQueueSize(_ queue: Int) -> UInt16 { 256 }

    package func readConfig(offset: Int, count: Int) -> [UInt8] {
        guard offset < config.count else { return [] }
        return Array(config[offset..<min(config.count, offset + count)])
    }

    package func writeConfig(offset: Int, _ bytes: [UInt8]) {
        calls.append(.writeConfig(offset, bytes))
    }

    package func setFeatures(_ features: UInt64) throws(VirtioDeviceError) {
        calls.append(.setFeatures(features))
        if refusesFeatures { throw VirtioDeviceError("refused") }
    }

    package func startQueue(_ queue: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        calls.append(.start(queue, setup.layout, setup.state))
        if queue == failingQueue { throw VirtioDeviceError("no such addresses") }
        setups[queue] = setup
    }

    package func stopQueue(_ queue: Int) -> QueueState {
        calls.append(.stop(queue))
        setups[queue] = nil
        return .freshSplit
    }

    package func reset() {
        calls.append(.reset)
        setups = [:]
    }
}

/// Reads and writes that go to one device or bus, with the sizes in their names.
package struct RegisterWindow {
    package let readBytes: (UInt64, Int) -> UInt64
    package let writeBytes: (UInt64, Int, UInt64) -> MachineEffect

    package init(_ bus: Bus, base: UInt64 = 0) {
        readBytes = { bus.read(base &+ $0, size: $1) }
        writeBytes = { bus.write(base &+ $0, size: $1, $2) }
    }

    package init(_ device: any BusDevice) {
        readBytes = { device.read(offset: $0, size: $1) }
        writeBytes = { device.write(offset: $0, size: $1, $2) }
    }

    package func read8(_ offset: UInt64) -> UInt8 {
        UInt8(truncatingIfNeeded: readBytes(offset, 1))
    }
    package func read16(_ offset: UInt64) -> UInt16 {
        UInt16(truncatingIfNeeded: readBytes(offset, 2))
    }
    package func read32(_ offset: UInt64) -> UInt32 {
        UInt32(truncatingIfNeeded: readBytes(offset, 4))
    }

    @discardableResult
    package func write8(_ offset: UInt64, _ value: UInt8) -> MachineEffect {
        writeBytes(offset, 1, UInt64(value))
    }

    @discardableResult
    package func write16(_ offset: UInt64, _ value: UInt16) -> MachineEffect {
        writeBytes(offset, 2, UInt64(value))
    }

    @discardableResult
    package func write32(_ offset: UInt64, _ value: UInt32) -> MachineEffect {
        writeBytes(offset, 4, UInt64(value))
    }
}
