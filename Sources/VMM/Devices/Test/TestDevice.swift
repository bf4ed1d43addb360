package import Accelerator
internal import Synchronization

/// What test programs for processors find useful in a machine, at the addresses where QEMU's
/// `pc-testdev` has it: ports that keep what is written, wires to the I/O APIC, and memory that is a
/// device's.
package final class TestDevice: Sendable {
    /// Four ports that are one register.
    package let register: Register
    /// A port for each pin of the I/O APIC: what is written is the wire's level.
    package let wires: Wires
    /// Bytes that take accesses of all sizes.
    package let memory: Memory

    package init(_ ioapic: IOAPIC) {
        register = Register()
        wires = Wires(ioapic)
        memory = Memory()
    }

    /// Back to the state after power-on.
    package func reset() {
        register.value.withLock { $0 = 0 }
        wires.reset()
        memory.reset()
    }

    package final class Register: BusDevice {
        package static let port: UInt64 = 0xe0
        package static let size: UInt64 = 4
        fileprivate let value = Mutex<UInt64>(0)

        package func read(offset: UInt64, size: Int) -> UInt64 {
            value.withLock { $0 >> (8 * offset) }
        }

        package func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
            let mask = allOnes(size) << (8 * offset)
            self.value.withLock { $0 = $0 & ~mask | (value << (8 * offset)) & mask }
            return .none
        }
    }

    package final class Wires: BusDevice {
        package static let port: UInt64 = 0x2000
        package static let size = UInt64(IOAPIC.pinCount)
        private let lines: [InterruptLine]
        /// Levels must not overlap.
        private let order = Mutex(())

        fileprivate init(_ ioapic: IOAPIC) {
            lines = (0..<IOAPIC.pinCount).map { InterruptLine(ioapic, pin: $0) }
        }

        package func read(offset: UInt64, size: Int) -> UInt64 { allOnes(size) }

        package func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
            set(lines[Int(offset)], value != 0)
            return .none
        }

        fileprivate func reset() {
            for line in lines { set(line, false) }
        }

        private func set(_ line: InterruptLine, _ isAsserted: Bool) {
            if order.withLock({ _ in line.set(isAsserted) }) { line.deliver() }
        }
    }

    package final class Memory: BusDevice {
        package static let address: UInt64 = 0xff00_0000
        package static let size: UInt64 = 0x10000
        private let bytes = Mutex([UInt8](repeating: 0, count: Int(Memory.size)))

        package func read(offset: UInt64, size: Int) -> UInt64 {
            bytes.withLock { $0.littleEndian(Int(offset), size: size) }
        }

        package func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
            bytes.withLock { bytes in
                for index in 0..<size {
                    bytes[Int(offset) + index] = UInt8(truncatingIfNeeded: value >> (8 * index))
                }
            }
            return .none
        }

        fileprivate func reset() {
            bytes.withLock { bytes in
                for index in bytes.indices { bytes[index] = 0 }
            }
        }
    }
}
