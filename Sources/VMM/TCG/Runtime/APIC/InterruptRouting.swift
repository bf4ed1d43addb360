internal import Synchronization

// Interrupt messages between CPUs and from devices.

/// A message on the (imagined) APIC bus.
struct InterruptMessage: Sendable {
    var mode: DeliveryMode
    var vector: UInt8
    var destination: UInt32
    var isLogical: Bool
    /// The destination has 32 bits.
    var isWide: Bool
    var isLevel: Bool
}

extension MachineCore {
    /// Delivers a message to every CPU that it names, or to one of them.
    func route(_ message: InterruptMessage) {
        var best: LocalAPIC?
        var bestPriority = UInt8.max
        for apic in allAPICs {
            let (matches, priority) = apic.with {
                (
                    $0.matches(
                        message.destination, isLogical: message.isLogical, isWide: message.isWide),
                    $0.processorPriority
                )
            }
            guard matches else { continue }
            if message.mode != .lowestPriority {
                apic.deliver(message.mode, vector: message.vector, isLevel: message.isLevel)
            } else if best == nil || priority < bestPriority {
                best = apic
                bestPriority = priority
            }
        }
        best?.deliver(.fixed, vector: message.vector, isLevel: message.isLevel)
    }

    /// A message-signalled interrupt (SDM volume 3, section 11.11).
    func signalMSI(address: UInt64, data: UInt32) {
        guard let mode = DeliveryMode(rawValue: UInt8((data >> 8) & 7)) else { return }
        // Whoever interrupts may have written to memory before.
        for apic in allAPICs { apic.deviceMayHaveWritten.store(true, ordering: .releasing) }
        route(
            InterruptMessage(
                mode: mode, vector: UInt8(data & 0xFF),
                destination: UInt32((address >> 12) & 0xFF), isLogical: address & 4 != 0,
                isWide: false, isLevel: data & (1 << 15) != 0))
    }

    /// What a write of the interrupt command register asks for (section 11.6.1).
    func sendCommand(_ command: UInt64, from sender: LocalAPIC) {
        guard let mode = DeliveryMode(rawValue: UInt8((command >> 8) & 7)) else { return }
        let vector = UInt8(truncatingIfNeeded: command)
        if (mode == .fixed || mode == .lowestPriority) && vector < 16 {
            return sender.with { $0.raise(APICError.sendIllegalVector) }
        }
        let isLevel = command & (1 << 15) != 0
        // The INIT level de-assert message does nothing on these processors.
        if mode == .initialise && isLevel && command & (1 << 14) == 0 { return }
        let isX2 = sender.with { $0.isX2 }
        // Whoever hears of it may hear of what a device has told the sender.
        for apic in allAPICs where apic !== sender {
            apic.deviceMayHaveWritten.store(true, ordering: .releasing)
        }
        switch (command >> 18) & 3 {
        case 1: sender.deliver(mode, vector: vector, isLevel: isLevel)
        case 2:
            for apic in allAPICs { apic.deliver(mode, vector: vector, isLevel: isLevel) }
        case 3:
            for apic in allAPICs where apic !== sender {
                apic.deliver(mode, vector: vector, isLevel: isLevel)
            }
        default:
            let destination = isX2 ? command >> 32 : command >> 56
            route(
                InterruptMessage(
                    mode: mode, vector: vector,
                    destination: UInt32(truncatingIfNeeded: destination),
                    isLogical: command & (1 << 11) != 0, isWide: isX2, isLevel: isLevel))
        }
    }
}
