package import Accelerator
internal import Synchronization

/// A PCI Express root port with a slot whose card comes and goes while the guest runs (native
/// hot-plug; PCI Express 6.0, section 6.7).
///
/// The guest hears of a card, switches its power on and finds it on the port's bus. To take it away,
/// the attention button is pressed, as it were: the guest stops using the card and switches its
/// power off, of which the machine is told. Without power a card cannot be seen.
package final class PCIRootPort: PCIFunctionWithoutBARs {
    private struct State {
        var space: PCIConfigSpace
        var isPresent = false
        /// An interrupt has been sent for what the guest has not looked at yet.
        var isAsserted = false
        /// The guest resets what is behind the port.
        var mustReset = false
    }

    private static let capability = PCIConfigSpace.Register.firstCapability
    private static let slotControl = capability + ExpressCapability.Register.slotControl
    private static let slotStatus = capability + ExpressCapability.Register.slotStatus
    private static let linkControl = capability + ExpressCapability.Register.linkControl
    private static let linkStatus = capability + ExpressCapability.Register.linkStatus

    /// What the guest's user calls the slot.
    package let number: UInt16
    private let machine: any VirtualMachine
    private let initial: PCIConfigSpace
    private let msiOffset: Int
    private let state: Mutex<State>
    private let powerOff: @Sendable () -> Void

    /// - Parameters:
    ///   - number: 1-255; the bus behind the port has it as well.
    ///   - window: the addresses that are passed on.
    ///   - powerOff: the guest has switched the slot's power off. Called on a vCPU thread.
    package init(
        number: UInt8, window: PCIWindow, machine: any VirtualMachine,
        powerOff: @escaping @Sendable () -> Void
    ) {
        self.number = UInt16(number)
        self.machine = machine
        self.powerOff = powerOff
        // QEMU's generic root port, which systems know.
        var space = PCIConfigSpace(
            common: .init(
                vendor: 0x1B36, device: 0x000C, revision: 0, classCode: 0x06_0400,
                subsystemVendor: 0, subsystem: 0))
        BridgeRegisters.prepare(&space)
        BridgeRegisters.program(&space, bus: number, window: window)
        let slot = ExpressCapability.port(slot: number)
        _ = space.addCapability(id: ExpressCapability.id, body: slot.body, mask: slot.mask)
        msiOffset = space.addCapability(
            id: MSIRegisters.capabilityID, body: MSIRegisters.body, mask: MSIRegisters.mask)
        initial = space
        state = Mutex(State(space: space))
        resetConfig()
    }

    // MARK: The card

    /// A card has been put in or taken out. Where there is a button, Linux waits for that to be
    /// pressed once a card is in (pciehp), so it is.
    package func setPresent(_ isPresent: Bool) {
        change { state in
            guard state.isPresent != isPresent else { return }
            state.isPresent = isPresent
            let button = isPresent ? ExpressCapability.Status.attentionButton : 0
            Self.note(ExpressCapability.Status.presenceChanged | button, &state)
            Self.updateLink(&state)
        }
    }

    /// A card is there before the guest starts, and is now added to the bus.
    package func setInitiallyPresent() {
        state.withLock { $0.isPresent = true }
        resetConfig()
    }

    /// Asks the guest to switch the power off.
    package func pressAttentionButton() {
        change { Self.note(ExpressCapability.Status.attentionButton, &$0) }
    }

    /// Whether a card can be seen.
    var isLinked: Bool { state.withLock { Self.isLinked($0) } }

    /// The number of the bus behind the port, as the guest has it.
    var secondaryBus: Int {
        state.withLock { Int($0.space.read(BridgeRegisters.Register.secondaryBus, size: 1)) }
    }

    /// Whether a card's addresses can be reached.
    func forwards(_ address: UInt64, size: UInt64) -> Bool {
        state.withLock {
            Self.isLinked($0) && BridgeRegisters.forwards($0.space, address, size: size)
        }
    }

    private static func isPowered(_ state: State) -> Bool {
        let control = state.space.word(slotControl)
        return state.isPresent && control & ExpressCapability.Control.powerOff == 0
    }

    private static func isLinked(_ state: State) -> Bool {
        let control = state.space.word(linkControl)
        return isPowered(state) && control & ExpressCapability.linkDisable == 0
    }

    // MARK: Registers

    package func readConfig(_ offset: Int, size: Int) -> UInt32 {
        state.withLock { $0.space.read(offset, size: size) }
    }

    package func writeConfig(_ offset: Int, size: Int, _ value: UInt32) -> MachineEffect {
        var isOff = false
        change { state in
            let wasPowered = Self.isPowered(state)
            let wasReset = Self.isInReset(state)
            state.space.write(offset, size: size, value)
            Self.clearEvents(&state, offset, size, value)
            if !wasReset, Self.isInReset(state) { state.mustReset = true }
            Self.updateLink(&state)
            isOff = wasPowered && !Self.isPowered(state)
            if isOff { state.mustReset = true }
        }
        if isOff { powerOff() }
        return .none
    }

    /// Whether the card has lost its state since the last call.
    func takeReset() -> Bool {
        state.withLock { state in
            defer { state.mustReset = false }
            return state.mustReset
        }
    }

    private static func isInReset(_ state: State) -> Bool {
        state.space.word(BridgeRegisters.Register.control) & BridgeRegisters.secondaryReset != 0
    }

    /// Clears the events to which a write has put ones.
    private static func clearEvents(
        _ state: inout State, _ offset: Int, _ size: Int, _ value: UInt32
    ) {
        var ones: UInt16 = 0
        for index in 0..<min(size, 4) {
            let byte = UInt16(truncatingIfNeeded: value >> (8 * UInt32(index))) & 0xFF
            if offset &+ index == slotStatus { ones |= byte }
            if offset &+ index == slotStatus + 1 { ones |= byte << 8 }
        }
        let status = state.space.word(slotStatus)
        set(slotStatus, status & ~(ones & ExpressCapability.Status.events), &state)
    }

    // MARK: Events

    private static func note(_ event: UInt16, _ state: inout State) {
        let status = state.space.word(slotStatus)
        set(slotStatus, status | event, &state)
    }

    /// The link is there when a card has power.
    private static func updateLink(_ state: inout State) {
        var status = state.space.word(slotStatus)
        status &= ~ExpressCapability.Status.isPresent
        if state.isPresent { status |= ExpressCapability.Status.isPresent }
        let link = state.space.word(linkStatus)
        let isActive = isLinked(state)
        if isActive != (link & ExpressCapability.linkActive != 0) {
            set(linkStatus, link ^ ExpressCapability.linkActive, &state)
            status |= ExpressCapability.Status.linkChanged
        }
        set(slotStatus, status, &state)
    }

    private static func set(_ register: Int, _ value: UInt16, _ state: inout State) {
        state.space.overwrite(register, size: 2, UInt32(value))
    }

    /// Changes the registers, and interrupts the guest if there is something new for it.
    private func change(_ body: (inout State) -> Void) {
        let message: MSIMessage? = state.withLock { state in
            body(&state)
            let wasAsserted = state.isAsserted
            state.isAsserted = Self.wantsInterrupt(state.space)
            guard state.isAsserted, !wasAsserted else { return nil }
            return MSIRegisters.message(state.space, at: msiOffset)
        }
        guard let message, message.isInterrupt else { return }
        machine.signalMSI(address: message.address, data: message.data)
    }

    private static func wantsInterrupt(_ space: PCIConfigSpace) -> Bool {
        typealias Control = ExpressCapability.Control
        typealias Status = ExpressCapability.Status
        let control = space.word(slotControl)
        let status = space.word(slotStatus)
        guard control & Control.interruptEnable != 0 else { return false }
        let linkChanged =
            control & Control.linkChangeEnable != 0 && status & Status.linkChanged != 0
        return status & control & Control.sameAsStatus != 0 || linkChanged
    }

    // MARK: Reset

    package func resetAll() { resetConfig() }

    /// A card that is there has power from the start.
    package func resetConfig() {
        typealias Control = ExpressCapability.Control
        state.withLock { state in
            state = State(space: initial, isPresent: state.isPresent)
            let control =
                state.isPresent
                ? Control.indicatorOn : Control.indicatorOff | Control.powerOff
            Self.set(Self.slotControl, control, &state)
            Self.updateLink(&state)
            Self.set(
                Self.slotStatus, state.isPresent ? ExpressCapability.Status.isPresent : 0, &state)
        }
    }
}
