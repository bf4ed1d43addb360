package import Accelerator
package import Core
internal import Synchronization

/// Any virtio device as a PCI function: virtio over PCI 1.x without the legacy interface (VIRTIO
/// 1.3, section 4.1).
///
/// Register accesses come in on vCPU threads. Everything that concerns the device behind it (its
/// configuration space, features, starting and stopping queues) is done on the control thread
/// while the vCPU waits, without locks. A notification signals the queue's kick right away; an
/// interrupt comes from the queue's call, through the virtual machine if it can bind one, and
/// else through the control thread.
///
/// One 64-bit BAR holds all registers:
///
///     0x0000 common configuration      0x3000 notifications, 4 bytes for each queue
///     0x1000 ISR status                0x4000 MSI-X table
///     0x2000 device configuration      0x5000 MSI-X pending bits
///
/// Memory that the device shares with its driver is a BAR of its own, which is the guest's memory as
/// RAM is: no access to it comes here.
// SAFETY: `device` and the control state are used on the control thread only.
@safe package final class VirtioPCI: PCIFunction {
    static let log = Log("virtio-pci")

    enum Layout {
        static let bar = 0
        static let windowBAR = 2
        static let size: UInt64 = 0x8000
        static let page: UInt64 = 0x1000
        static let notifyMultiplier: UInt64 = 4
        /// So that notifications and the MSI-X table have a page each.
        static let maximumQueueCount = 1024
        static let maximumVectorCount = 256
    }

    /// The transport's parts in the BAR, by page number.
    private enum Page: UInt64 {
        case common, isr, device, notify, table, pending
    }

    /// A queue's interrupts, as they are routed at present.
    enum CallRoute {
        case idle
        /// The control thread watches the call.
        case watched
        /// The virtual machine does.
        case bound
    }

    /// What belongs to the control thread.
    struct ControlState {
        var isRunning: [Bool]
        var routes: [CallRoute]
        /// Whether the virtual machine takes calls itself; assumed until it says no.
        var canBind = true
        /// In lockstep: the used indices for which the driver has been interrupted, if it wanted.
        var reported: [UInt16]
    }

    /// How the device's work relates to guest time.
    package enum Pace: Sendable {
        /// The device works beside the guest, and interrupts it when it is done.
        case free
        /// The guest stands still while the device works (VirtioPCI+Lockstep.swift).
        case lockstep
    }

    // SAFETY: used on the control thread only.
    nonisolated(unsafe) let device: any VirtioDevice
    nonisolated(unsafe) var controlState: ControlState
    let name: String
    let memory: GuestMemory
    let machine: any VirtualMachine
    let control: any ControlPlane
    let msix: MSIXTable
    let registers: Mutex<VirtioRegisters>
    let kicks: [EventFD]
    let calls: [EventFD]
    let pace: Pace
    /// In lockstep: the queues that the guest waits for, and whether they still need a kick.
    let awaited = Mutex<[Int: Bool]>([:])
    /// Whether calls may be bound to vectors, so that changes of vectors matter.
    let mayBind = Atomic<Bool>(true)
    let config: LockedConfigSpace
    let msixOffset: Int
    let windowOffset: Int
    /// Where notifications are bound.
    private let notifyBase = Mutex<UInt64?>(nil)
    private let sharedMemory: SharedWindow?

    /// Wraps `device`. Called on the control thread (as all use of the device).
    /// - Parameters:
    ///   - name: what messages call the device.
    ///   - isExpress: it is a card behind a port, not a part of the host bridge.
    ///   - shared: memory that the device shares with its driver.
    package init(
        _ device: any VirtioDevice, name: String = "device", memory: GuestMemory,
        machine: any VirtualMachine, control: any ControlPlane, pace: Pace = .free,
        isExpress: Bool = false, shared: DeviceWindow? = nil
    ) throws(SystemError) {
        sharedMemory = shared?.memory
        // SAFETY: on the control thread; nobody else has this object yet.
        unsafe self.device = device
        self.name = name
        self.memory = memory
        self.machine = machine
        self.control = control
        self.pace = pace
        let queueCount = min(device.queueCount, Layout.maximumQueueCount)
        let vectorCount = min(queueCount + 1, Layout.maximumVectorCount)
        msix = MSIXTable(vectorCount: vectorCount, machine: machine)
        registers = Mutex(
            VirtioRegisters(
                offered: Self.transportFeatures(device.features, pace),
                maximumQueueSizes: (0..<queueCount).map(device.maximumQueueSize),
                vectorCount: vectorCount))
        // SAFETY: as above.
        unsafe controlState = ControlState(
            isRunning: Array(repeating: false, count: queueCount),
            routes: Array(repeating: .idle, count: queueCount),
            reported: Array(repeating: 0, count: queueCount))
        var kicks: [EventFD] = []
        var calls: [EventFD] = []
        for _ in 0..<queueCount {
            kicks.append(try EventFD())
            calls.append(try EventFD())
        }
        self.kicks = kicks
        self.calls = calls
        let space = Self.makeConfigSpace(
            device.deviceID, msix: msix, isExpress: isExpress, shared: shared)
        config = LockedConfigSpace(space.space)
        msixOffset = space.msixOffset
        windowOffset = space.windowOffset
    }

    /// Leaves out what this transport does not do.
    static func transportFeatures(_ features: UInt64, _ pace: Pace) -> UInt64 {
        let singleRoot: UInt64 = 1 << 37
        let notificationConfig: UInt64 = 1 << 39
        let administration: UInt64 = 1 << 41
        var unsupported =
            singleRoot | notificationConfig | administration | VirtioFeature.accessPlatform
        if pace == .lockstep { unsupported |= lockstepExcluded }
        return features & ~unsupported
    }

    // MARK: BAR

    package func readBAR(_ bar: Int, offset: UInt64, size: Int) -> UInt64 {
        guard bar == Layout.bar else { return 0 }
        let part = offset % Layout.page
        switch Page(rawValue: offset / Layout.page) {
        case .common: return registers.withLock { $0.read(offset: part, size: size) }
        case .isr: return part == 0 ? readISR() : 0
        case .device: return readDeviceConfig(part, size: size)
        case .table: return msix.readTable(offset: part, size: size)
        case .pending: return msix.readPending(offset: part, size: size)
        case .notify, nil: return 0
        }
    }

    package func writeBAR(
        _ bar: Int, offset: UInt64, size: Int, _ value: UInt64
    ) -> MachineEffect {
        guard bar == Layout.bar else { return .none }
        let part = offset % Layout.page
        switch Page(rawValue: offset / Layout.page) {
        case .common: writeCommon(part, size: size, value)
        case .device: writeDeviceConfig(part, size: size, value)
        case .notify: notify(Int(part / Layout.notifyMultiplier))
        case .table:
            msix.writeTable(offset: part, size: size, value)
            vectorsChanged()
        case .isr, .pending, nil: break
        }
        return isAwaited ? .awaitDevices : .none
    }

    /// The register says which queue it is; what is written to it, which with NOTIFICATION_DATA is
    /// also how far the driver has got, tells the device no more than the ring does.
    private func notify(_ queue: Int) {
        guard kicks.indices.contains(queue) else { return }
        switch pace {
        case .free: kicks[queue].signalIfRoom()
        case .lockstep: awaited.withLock { $0[queue] = true }
        }
    }

    private func readISR() -> UInt64 {
        registers.withLock { registers in
            let isr = registers.isr
            registers.isr = 0
            return UInt64(isr)
        }
    }

    private func readDeviceConfig(_ offset: UInt64, size: Int) -> UInt64 {
        control.call(0) { [self] in
            // SAFETY: on the control thread.
            unsafe device.readConfig(offset: Int(offset), count: size).littleEndian(0, size: size)
        }
    }

    private func writeDeviceConfig(_ offset: UInt64, size: Int, _ value: UInt64) {
        control.perform { [self] in
            var bytes: [UInt8] = []
            bytes.appendLittleEndian(value)
            // SAFETY: on the control thread.
            unsafe device.writeConfig(offset: Int(offset), Array(bytes.prefix(size)))
        }
    }

    // MARK: Placement

    package var placements: [PCIBARPlacement] { config.placements }

    package func setBAR(_ bar: Int, address: UInt64) { config.setBAR(bar, address: address) }

    package func barMoved(_ bar: Int, to address: UInt64?) {
        if bar == Layout.windowBAR, let sharedMemory {
            if !machine.place(sharedMemory, at: address.map { GuestAddress($0) }) {
                Self.log.guest("\(name): there is no place for its shared memory")
            }
            return
        }
        guard pace == .free else { return }
        notifyBase.withLock { base in
            if let base { unbindNotifies(base, count: kicks.count) }
            base = address.map { $0 &+ Page.notify.rawValue * Layout.page }
            if let newBase = base, !bindNotifies(newBase) { base = nil }
        }
    }

    /// Binds all notifications, or none: the others would still come as register accesses.
    private func bindNotifies(_ base: UInt64) -> Bool {
        for (queue, kick) in kicks.enumerated()
        where !machine.bindNotify(kick, address: notifyAddress(base, queue)) {
            unbindNotifies(base, count: queue)
            return false
        }
        return true
    }

    private func unbindNotifies(_ base: UInt64, count: Int) {
        for (queue, kick) in kicks.prefix(count).enumerated() {
            machine.unbindNotify(kick, address: notifyAddress(base, queue))
        }
    }

    private func notifyAddress(_ base: UInt64, _ queue: Int) -> GuestAddress {
        GuestAddress(base &+ UInt64(queue) * Layout.notifyMultiplier)
    }

    package func resetConfig() {
        msix.reset()
        config.reset()
    }

    package func resetAll() {
        reset()
        resetConfig()
    }

    /// Resets the device, but for the PCI part.
    package func reset() { control.perform { [self] in resetDevice() } }
}
