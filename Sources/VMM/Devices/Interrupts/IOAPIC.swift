package import Accelerator
internal import Synchronization

/// The I/O APIC (Intel 82093AA, with the EOI register of version 0x20): 24 pins whose interrupts
/// become messages to the vCPUs' local APICs.
///
/// Lock order: a device's lock, then this one. Messages leave when the lock is gone.
package final class IOAPIC: BusDevice {
    package static let pinCount = 24
    /// Bytes of its register window.
    package static let size: UInt64 = 0x1000

    /// A redirection table entry's bits (82093AA, section 3.2.4).
    private enum Redirection {
        static let vector: UInt64 = 0xFF
        static let deliveryMode: UInt64 = 7 << 8
        static let isLogical: UInt64 = 1 << 11
        static let deliveryStatus: UInt64 = 1 << 12
        static let remoteIRR: UInt64 = 1 << 14
        static let isLevel: UInt64 = 1 << 15
        static let isMasked: UInt64 = 1 << 16
        static let readOnly = deliveryStatus | remoteIRR
        static let implemented: UInt64 = 0xFF00_0000_0001_FFFF
        static let lowestPriority: UInt64 = 1
    }

    private struct Pin {
        var redirection = Redirection.isMasked
        var isAsserted = false
        var edges: UInt32 = 0
    }

    private struct State {
        var select: UInt8 = 0
        var id: UInt32 = 0
        var pins = [Pin](repeating: Pin(), count: IOAPIC.pinCount)
    }

    private let machine: any VirtualMachine
    private let state = Mutex(State())

    package init(machine: any VirtualMachine) { self.machine = machine }

    /// Back to the state after power-on. Lines keep their levels.
    package func reset() {
        state.withLock { state in
            state.select = 0
            state.id = 0
            for index in state.pins.indices {
                state.pins[index].redirection = Redirection.isMasked
            }
        }
    }

    // Register window: IOREGSEL at 0x00, IOWIN at 0x10, EOI at 0x40.

    package func read(offset: UInt64, size: Int) -> UInt64 {
        state.withLock { state in
            switch offset {
            case 0x00: UInt64(state.select)
            case 0x10: UInt64(Self.register(state, state.select))
            default: 0
            }
        }
    }

    package func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
        switch offset {
        case 0x00: state.withLock { $0.select = UInt8(truncatingIfNeeded: value) }
        case 0x10: writeWindow(UInt32(truncatingIfNeeded: value))
        case 0x40: endOfInterrupt(vector: UInt8(truncatingIfNeeded: value))
        default: break
        }
        return .none
    }

    private static func register(_ state: State, _ index: UInt8) -> UInt32 {
        switch index {
        case 0: return state.id
        case 1: return 0x20 | UInt32(pinCount - 1) << 16
        case 2: return state.id
        default:
            guard let pin = pinIndex(index) else { return 0 }
            let entry = state.pins[pin].redirection
            return UInt32(truncatingIfNeeded: index & 1 == 0 ? entry : entry >> 32)
        }
    }

    private static func pinIndex(_ register: UInt8) -> Int? {
        guard register >= 0x10 else { return nil }
        let pin = Int(register - 0x10) / 2
        return pin < pinCount ? pin : nil
    }

    private func writeWindow(_ value: UInt32) {
        let message: MSIMessage? = state.withLock { state in
            if state.select == 0 {
                state.id = value & 0x0F00_0000
                return nil
            }
            guard let index = Self.pinIndex(state.select) else { return nil }
            let old = state.pins[index].redirection
            var new: UInt64
            if state.select & 1 == 0 {
                new = (old & ~0xFFFF_FFFF) | UInt64(value)
            } else {
                new = (old & 0xFFFF_FFFF) | UInt64(value) << 32
            }
            new =
                (new & Redirection.implemented & ~Redirection.readOnly)
                | (old & Redirection.readOnly)
            if new & Redirection.isLevel == 0 { new &= ~Redirection.remoteIRR }
            state.pins[index].redirection = new
            return Self.levelMessage(&state.pins[index])
        }
        send(message)
    }

    /// A wire has changed.
    func update(pin index: Int, line: InterruptLine) {
        let message: MSIMessage? = state.withLock { state in
            guard state.pins.indices.contains(index) else { return nil }
            // Read under the lock, so that the last caller sees the newest level.
            let (isAsserted, edges) = line.snapshot
            let isRising = edges != state.pins[index].edges
            state.pins[index].isAsserted = isAsserted
            state.pins[index].edges = edges
            let entry = state.pins[index].redirection
            if entry & Redirection.isLevel != 0 { return Self.levelMessage(&state.pins[index]) }
            // Edges at a masked pin are neither delivered nor kept (82093AA, section 3.2.4).
            guard isRising, entry & Redirection.isMasked == 0 else { return nil }
            return Self.message(entry)
        }
        send(message)
    }

    /// A CPU has ended the interrupt `vector`: pins that are still asserted interrupt again.
    package func endOfInterrupt(vector: UInt8) {
        let messages: [MSIMessage] = state.withLock { state in
            var messages: [MSIMessage] = []
            for index in state.pins.indices {
                let entry = state.pins[index].redirection
                guard entry & Redirection.remoteIRR != 0,
                    UInt8(truncatingIfNeeded: entry) == vector
                else { continue }
                state.pins[index].redirection = entry & ~Redirection.remoteIRR
                if let message = Self.levelMessage(&state.pins[index]) { messages.append(message) }
            }
            return messages
        }
        for message in messages { send(message) }
    }

    /// The message of a level-triggered pin that is due: asserted, unmasked and not in service.
    private static func levelMessage(_ pin: inout Pin) -> MSIMessage? {
        let entry = pin.redirection
        guard pin.isAsserted, entry & Redirection.isLevel != 0,
            entry & (Redirection.isMasked | Redirection.remoteIRR) == 0
        else { return nil }
        pin.redirection |= Redirection.remoteIRR
        return message(entry)
    }

    /// A redirection entry in the form of a message (SDM volume 3, section 11.11).
    private static func message(_ entry: UInt64) -> MSIMessage {
        var address: UInt64 = 0xFEE0_0000 | (entry >> 56) << 12
        if entry & Redirection.isLogical != 0 { address |= 1 << 2 }
        let mode = (entry & Redirection.deliveryMode) >> 8
        if mode == Redirection.lowestPriority { address |= 1 << 3 }
        var data = entry & (Redirection.vector | Redirection.deliveryMode)
        if entry & Redirection.isLevel != 0 { data |= 1 << 15 | 1 << 14 }
        return MSIMessage(address: address, data: UInt32(truncatingIfNeeded: data))
    }

    private func send(_ message: MSIMessage?) {
        guard let message else { return }
        machine.signalMSI(address: message.address, data: message.data)
    }
}
