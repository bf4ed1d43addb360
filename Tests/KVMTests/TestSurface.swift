import Accelerator
import Core
import Devices
import Synchronization

/// The buses of a bare guest: they record what the guest does, and answer in a way that says what
/// was asked.
final class TestSurface: ExitSurface {
    /// Writes here end the guest's program.
    static let endPort: UInt8 = 0xF4
    /// Writes here are the program's results.
    static let resultPort: UInt8 = 0xE0
    /// Writes here run `action`.
    static let actionPort: UInt8 = 0xE1
    /// Writes here end the guest's program, too.
    static let endRegister: UInt64 = 0xD000_0F00

    struct Access: Equatable, Sendable {
        var address: UInt64
        var size: Int
        var value: UInt64
    }

    struct Record: Equatable, Sendable {
        var results: [UInt32] = []
        var writes: [Access] = []
        var ports: [Access] = []
        var ends: [UInt8] = []
    }

    let record = Mutex(Record())
    /// What the guest can have done by a write to `actionPort`.
    let action = Mutex<@Sendable (UInt32) -> Void>({ _ in })
    /// What happens meanwhile when a register or an unused port is accessed.
    let meanwhile = Mutex<@Sendable () -> Void>({})
    /// Devices of the product, at the addresses that they claim.
    let bus = Bus()
    static let busWindow = PCIWindow(start: 0xD010_0000, size: 0x10_0000)
    /// Registers, writes to which ask for something.
    let effects = Mutex<[UInt64: MachineEffect]>([:])
    /// Registers that notify somebody, where the provider does not bind them.
    let notifies = Mutex<[UInt64: EventFD]>([:])

    func readPort(_ port: UInt16, size: Int) -> UInt32 {
        meanwhile.withLock { $0 }()
        return 0xA5B6_C700 | UInt32(port & 0xFF)
    }

    func writePort(_ port: UInt16, size: Int, _ value: UInt32) -> MachineEffect {
        switch UInt8(truncatingIfNeeded: port) {
        case Self.endPort: return .powerOff
        case Self.resultPort: record.withLock { $0.results.append(value) }
        case Self.actionPort: action.withLock { $0 }(value)
        default:
            meanwhile.withLock { $0 }()
            record.withLock {
                $0.ports.append(Access(address: UInt64(port), size: size, value: UInt64(value)))
            }
        }
        return .none
    }

    /// Every byte of a register is the low byte of its address.
    private func isOnBus(_ address: GuestAddress) -> Bool {
        address.rawValue >= Self.busWindow.start
            && address.rawValue - Self.busWindow.start < Self.busWindow.size
    }

    func readMMIO(_ address: GuestAddress, size: Int) -> UInt64 {
        if isOnBus(address) { return bus.read(address.rawValue, size: size) }
        meanwhile.withLock { $0 }()
        return (0..<UInt64(size)).reduce(0) { $0 | ((address.rawValue + $1) & 0xFF) << (8 * $1) }
    }

    func writeMMIO(_ address: GuestAddress, size: Int, _ value: UInt64) -> MachineEffect {
        if isOnBus(address) { return bus.write(address.rawValue, size: size, value) }
        if address.rawValue == Self.endRegister { return .powerOff }
        if let effect = effects.withLock({ $0[address.rawValue] }) { return effect }
        if let event = notifies.withLock({ $0[address.rawValue] }) {
            event.signal()
        } else {
            record.withLock {
                $0.writes.append(Access(address: address.rawValue, size: size, value: value))
            }
        }
        return .none
    }

    func endOfInterrupt(vector: UInt8) { record.withLock { $0.ends.append(vector) } }

    var results: [UInt32] { record.withLock { $0.results } }
}
