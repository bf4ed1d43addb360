package import Accelerator
internal import Synchronization

/// A 16550A serial port (COM1: ports 0x3F8-0x3FF).
///
/// Bytes to the host wait in a bounded buffer until the control thread takes them; a terminal
/// that does not read makes the guest's transmitter busy and never blocks a vCPU. Bytes from the
/// host wait in a second one; `receive` says how many it took.
package final class Serial: BusDevice {
    package static let size: UInt64 = 8

    /// Calls to the host's side, on any thread and with no lock held. They should only wake the
    /// control thread.
    package struct Events: Sendable {
        /// There is output, and there was none when `takeOutput` was last called. Whoever waits a
        /// millisecond before taking it gets lines instead of bytes.
        package var outputReady: @Sendable () -> Void
        /// There is room for input again, after `receive` did not take everything.
        package var inputReady: @Sendable () -> Void

        package init(
            outputReady: @escaping @Sendable () -> Void = {},
            inputReady: @escaping @Sendable () -> Void = {}
        ) {
            self.outputReady = outputReady
            self.inputReady = inputReady
        }
    }

    private struct State {
        var registers: SerialRegisters
        var isOutputAnnounced = false
        var isInputStalled = false
    }

    /// What is to be done when the lock is gone.
    private struct Outcome {
        var isLineChanged = false
        var isOutputReady = false
        var isInputReady = false
    }

    private let line: InterruptLine
    private let events: Events
    private let state: Mutex<State>

    /// - Parameters:
    ///   - line: where its interrupts go; not used by any other device.
    ///   - outputCapacity: bytes that may wait for the host, at least 64.
    package init(
        line: InterruptLine, events: Events, inputCapacity: Int = 4096,
        outputCapacity: Int = 65536
    ) {
        self.line = line
        self.events = events
        state = Mutex(
            State(
                registers: SerialRegisters(
                    inputCapacity: max(1, inputCapacity), outputCapacity: max(64, outputCapacity))))
    }

    // MARK: The host's side

    /// Takes up to `maximum` bytes that the guest has sent. After a call that returned nothing,
    /// `outputReady` tells when to call again.
    package func takeOutput(maximum: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        change { state, outcome in
            bytes = state.registers.takeOutput(maximum)
            if bytes.isEmpty { state.isOutputAnnounced = false }
        }
        return bytes
    }

    /// Offers bytes to the guest.
    /// - Returns: how many were taken. If not all, `inputReady` tells when to offer the rest.
    package func receive(_ bytes: [UInt8]) -> Int {
        var taken = 0
        change { state, _ in
            taken = min(bytes.count, state.registers.input.free)
            for byte in bytes.prefix(taken) { _ = state.registers.input.append(byte) }
            state.isInputStalled = taken < bytes.count
        }
        return taken
    }

    /// Back to the state after power-on. Bytes on their way stay.
    package func reset() { change { state, _ in state.registers.reset() } }

    // MARK: The guest's side

    package func read(offset: UInt64, size: Int) -> UInt64 {
        var value: UInt64 = 0
        change { state, outcome in
            // Wider accesses are byte accesses to adjoining registers, as on the ISA bus.
            for index in 0..<size {
                let register = Int(truncatingIfNeeded: offset) + index
                let byte = state.registers.read(register)
                value |= UInt64(byte) << (8 * UInt64(index))
            }
            if state.isInputStalled,
                state.registers.input.free * 2 >= state.registers.input.capacity
            {
                state.isInputStalled = false
                outcome.isInputReady = true
            }
        }
        return value
    }

    package func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
        change { state, outcome in
            for index in 0..<size {
                let register = Int(truncatingIfNeeded: offset) + index
                let byte = UInt8(truncatingIfNeeded: value >> (8 * UInt64(index)))
                write(register, byte, &state, &outcome)
            }
        }
        return .none
    }

    private func write(
        _ register: Int, _ byte: UInt8, _ state: inout State, _ outcome: inout Outcome
    ) {
        guard register == 0, state.registers.writesTransmit else {
            state.registers.write(register, byte)
            return
        }
        state.registers.beginTransmit()
        // An edge-triggered pin must see the interrupt go and come back.
        outcome.isLineChanged = line.set(state.registers.isInterrupting) || outcome.isLineChanged
        state.registers.transmit(byte)
        if !state.isOutputAnnounced, !state.registers.output.isEmpty {
            state.isOutputAnnounced = true
            outcome.isOutputReady = true
        }
    }

    private func change(_ body: (inout State, inout Outcome) -> Void) {
        let outcome = state.withLock { state in
            var outcome = Outcome()
            body(&state, &outcome)
            let isChanged = line.set(state.registers.isInterrupting)
            outcome.isLineChanged = outcome.isLineChanged || isChanged
            return outcome
        }
        if outcome.isLineChanged { line.deliver() }
        if outcome.isOutputReady { events.outputReady() }
        if outcome.isInputReady { events.inputReady() }
    }
}
