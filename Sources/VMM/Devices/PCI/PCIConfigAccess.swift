package import Accelerator
internal import Synchronization

/// The enhanced configuration access mechanism (PCI Express 6.0, section 7.2.2): 1 MiB of
/// addresses for each bus.
package final class PCIECAM: BusDevice {
    private let bus: PCIBus

    package init(_ bus: PCIBus) { self.bus = bus }

    /// Bytes of addresses that buses 0 to `lastBus` take.
    package static func size(lastBus: UInt8) -> UInt64 { (UInt64(lastBus) + 1) << 20 }

    package func read(offset: UInt64, size: Int) -> UInt64 {
        var value: UInt64 = 0
        forEachPart(offset, size) { part, shift, count in
            let bits = bus.readConfig(
                bus: Int(part >> 20), device: Int(part >> 15) & 31, function: Int(part >> 12) & 7,
                offset: Int(part & 0xFFF), size: count)
            value |= UInt64(bits) << shift
        }
        return value
    }

    package func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
        var effect = MachineEffect.none
        forEachPart(offset, size) { part, shift, count in
            let bits = UInt32(truncatingIfNeeded: value >> shift)
            let result = bus.writeConfig(
                bus: Int(part >> 20), device: Int(part >> 15) & 31, function: Int(part >> 12) & 7,
                offset: Int(part & 0xFFF), size: count, bits)
            if result != .none { effect = result }
        }
        return effect
    }

    /// Splits an access so that each part is within one aligned doubleword.
    private func forEachPart(
        _ offset: UInt64, _ size: Int, _ body: (_ part: UInt64, _ shift: UInt64, Int) -> Void
    ) {
        var done = 0
        while done < size {
            let part = (offset & 0xFFF_FFFF) &+ UInt64(done)
            let count = min(size - done, 4 - Int(part & 3))
            body(part & 0xFFF_FFFF, 8 * UInt64(done), count)
            done += count
        }
    }
}

/// The ports of configuration mechanism #1 (PCI Local Bus 3.0, section 3.2.2.3.2), 0xCF8-0xCFF,
/// and, among them, the reset control register 0xCF9.
package final class PCIConfigPorts: BusDevice {
    package static let size: UInt64 = 8
    /// The value that resets the machine when it is written to port 0xCF9.
    package static let resetValue: UInt8 = 0x06

    private struct State {
        var address: UInt32 = 0
        var resetControl: UInt8 = 0
    }

    private let bus: PCIBus
    private let state = Mutex(State())

    package init(_ bus: PCIBus) { self.bus = bus }

    /// Back to the state after power-on.
    package func reset() { state.withLock { $0 = State() } }

    package func read(offset: UInt64, size: Int) -> UInt64 {
        switch (offset, size) {
        case (0, 4): return UInt64(state.withLock { $0.address })
        case (1, 1): return UInt64(state.withLock { $0.resetControl })
        case (4..., ...4):
            guard let target = target(offset) else { return allOnes(size) }
            return UInt64(
                bus.readConfig(
                    bus: target.bus, device: target.device, function: target.function,
                    offset: target.offset, size: size))
        default: return allOnes(size)
        }
    }

    package func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
        switch (offset, size) {
        case (0, 4):
            state.withLock { $0.address = UInt32(truncatingIfNeeded: value) & 0x80FF_FFFC }
            return .none
        case (1, 1): return writeResetControl(UInt8(truncatingIfNeeded: value))
        case (4..., ...4):
            guard let target = target(offset) else { return .none }
            return bus.writeConfig(
                bus: target.bus, device: target.device, function: target.function,
                offset: target.offset, size: size, UInt32(truncatingIfNeeded: value))
        default: return .none
        }
    }

    /// Bit 2 resets when it goes from zero to one; bit 1 says how thoroughly.
    private func writeResetControl(_ value: UInt8) -> MachineEffect {
        state.withLock { state in
            let isReset = value & ~state.resetControl & 0x04 != 0
            state.resetControl = value & 0x0E
            return isReset ? .reset : .none
        }
    }

    private func target(_ offset: UInt64) -> (bus: Int, device: Int, function: Int, offset: Int)? {
        let address = state.withLock { $0.address }
        guard address & 0x8000_0000 != 0 else { return nil }
        return (
            Int(address >> 16) & 0xFF, Int(address >> 11) & 31, Int(address >> 8) & 7,
            Int(address & 0xFC) + Int(truncatingIfNeeded: offset & 3)
        )
    }
}
