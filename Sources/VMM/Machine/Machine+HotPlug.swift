internal import Core
internal import Devices
internal import Synchronization
internal import VhostUser

/// A device cannot be plugged in or unplugged; one sentence for the user.
struct HotPlugError: Error, CustomStringConvertible {
    let description: String
    /// There is no such device.
    let isUnknown: Bool

    init(_ description: String, isUnknown: Bool = false) {
        self.description = description
        self.isUnknown = isUnknown
    }
}

// Devices that come and go while the guest runs. The guest hears of them as of cards in slots of a
// PCI Express port (PCIRootPort).
extension Machine {
    /// A guest that has not let a device go in this time may be asked again.
    private static let askAgainNanoseconds: UInt64 = 10_000_000_000

    /// Makes a slot for a device, and puts the device in if it is there from the start.
    /// - Parameter index: in the options.
    func addSlot(_ device: DeviceOptions, _ index: Int) throws {
        guard let options = device.slot, let number = UInt8(exactly: slots.count + 1) else {
            throw BootError("there are too many slots")
        }
        var made: PCIRootPort?
        let place = try pci.addPort { window in
            let port = PCIRootPort(number: number, window: window, machine: virtualMachine) {
                [weak self] in self?.slotLostPower(Int(number) - 1)
            }
            made = port
            return port
        }
        guard let port = made else { return }
        let slot = DeviceSlot(id: options.id, index: index, place: place, port: port)
        slots.append(slot)
        guard options.isPlugged else { return }
        let attached = try attach(index, control: makeControl(device))
        devices.append(attached)
        slot.device = attached
        slot.state = .plugged
        port.setInitiallyPresent()
        try pci.add(attached.function, behind: place, isProgrammed: true)
    }

    private func slot(_ id: String) throws(HotPlugError) -> DeviceSlot {
        guard let slot = slots.first(where: { $0.id == id }) else {
            let known = slots.map { "'\($0.id)'" }.joined(separator: ", ")
            throw HotPlugError(
                "there is no device '\(id)'; the machine was started with "
                    + (known.isEmpty ? "none that has an id" : known), isUnknown: true)
        }
        return slot
    }

    // MARK: In

    /// Puts a device into its slot; `completion` is called on the machine's control thread when the
    /// guest has been told, or with the reason why not.
    func plug(
        _ id: String, then completion: @escaping @Sendable (HotPlugError?) -> Void
    ) throws(HotPlugError) {
        let slot = try slot(id)
        guard case .empty = slot.state else {
            throw HotPlugError("device '\(id)' is plugged in already, or just comes or goes")
        }
        guard !options.accelerator.isCounted else {
            throw HotPlugError("a machine with clock=counted takes no devices while it runs")
        }
        let control: ControlThread
        do {
            control = ControlThread(try EventLoop())
            try control.launch(name: "slot\(slot.port.number)", filter: try makeDeviceFilter())
        } catch {
            throw HotPlugError("device '\(id)' cannot have a thread: \(error)")
        }
        slot.state = .filling
        let index = slot.index
        let number = Int(slot.port.number) - 1
        let box = ResultBox<Result<AttachedDevice, any Error>?>(nil)
        control.begin(
            { [self] in
                box.value.withLock { $0 = Result { try attach(index, control: control) } }
            },
            then: { [self] in
                self.control.loop.post { self.plugged(number, control, box, completion) }
            })
    }

    private func plugged(
        _ number: Int, _ control: ControlThread,
        _ box: ResultBox<Result<AttachedDevice, any Error>?>,
        _ completion: (HotPlugError?) -> Void
    ) {
        let slot = slots[number]
        do {
            guard let device = try box.value.withLock({ $0 })?.get() else { return }
            try pci.add(device.function, behind: slot.place, isProgrammed: false)
            devices.append(device)
            slot.device = device
            slot.state = .plugged
            slot.port.setPresent(true)
            completion(nil)
        } catch {
            control.end()
            slot.state = .empty
            completion(HotPlugError("device '\(slot.id)' cannot be plugged in: \(error)"))
        }
    }

    // MARK: Out

    /// Asks the guest to do without a device. When it has agreed, monitors' clients are told.
    func unplug(_ id: String) throws(HotPlugError) {
        let slot = try slot(id)
        let now = Clock.monotonic()
        switch slot.state {
        case .plugged: break
        case .leaving(let since) where now &- since > Self.askAgainNanoseconds: break
        case .leaving:
            throw HotPlugError("the guest has just been asked to do without device '\(id)'")
        case .empty, .filling, .emptying:
            throw HotPlugError("device '\(id)' is not plugged in")
        }
        slot.state = .leaving(since: now)
        slot.port.pressAttentionButton()
    }

    /// On a vCPU thread.
    private func slotLostPower(_ number: Int) {
        control.loop.post { [self] in
            if slots[number].isLeaving { empty(slots[number]) }
        }
    }

    /// A guest that starts anew does not hold devices any more.
    func finishUnplugging() {
        for slot in slots where slot.isLeaving { empty(slot) }
    }

    private func empty(_ slot: DeviceSlot) {
        guard let device = slot.device else { return }
        slot.state = .emptying
        slot.device = nil
        pci.remove(.behind(slot.place))
        slot.port.setPresent(false)
        devices.removeAll { $0 === device }
        let number = Int(slot.port.number) - 1
        device.stop { [self] in
            control.loop.post {
                device.control.end()
                self.slots[number].state = .empty
                self.run.whileStill { self.buses.memory.reclaim() }
                self.monitor?.emitUnplugged(self.slots[number].id)
            }
        }
    }
}
