package import Accelerator
internal import Synchronization

/// The sleep control and sleep status registers of hardware-reduced ACPI (ACPI 6.5, section
/// 4.8.3.7), one byte each. The only sleep state is S5.
package final class SleepRegisters: BusDevice {
    package static let size: UInt64 = 2
    /// What `\_S5` says is to be written as the sleep type.
    package static let softOffType: UInt8 = 5

    package init() {}

    package func read(offset: UInt64, size: Int) -> UInt64 { 0 }

    package func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
        let isEnabled = value & 0x20 != 0
        let type = UInt8(truncatingIfNeeded: value >> 2) & 7
        return offset == 0 && isEnabled && type == Self.softOffType ? .powerOff : .none
    }
}

/// The panic notifier (QEMU's specification "PVPANIC DEVICE"), one port.
package final class PanicNotifier: BusDevice {
    package static let size: UInt64 = 1

    package init() {}

    /// The events it understands: panicked and crash loaded.
    package func read(offset: UInt64, size: Int) -> UInt64 { 3 }

    package func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
        if value & 1 != 0 { return .panicked }
        return value & 2 != 0 ? .crashLoaded : .none
    }
}

/// A port by which a guest ends the machine with a status, for tests (QEMU's `isa-debug-exit`).
package final class DebugExit: BusDevice {
    package static let size: UInt64 = 4
    /// What was written first, once something was.
    private let written = Mutex<UInt32?>(nil)

    package init() {}

    /// The machine's exit code: never 0, which stays a power-off's.
    package var status: Int32? {
        written.withLock { $0.map { Int32(truncatingIfNeeded: ($0 << 1 | 1) & 0xff) } }
    }

    package func read(offset: UInt64, size: Int) -> UInt64 { 0 }

    package func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
        written.withLock { $0 = $0 ?? UInt32(truncatingIfNeeded: value) }
        return .debugExit
    }
}

/// Ports that take writes and do nothing, such as the POST code's (0x80), which kernels use for
/// short delays.
package final class PortSink: BusDevice {
    package init() {}

    package func read(offset: UInt64, size: Int) -> UInt64 { allOnes(size) }

    package func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect { .none }
}
