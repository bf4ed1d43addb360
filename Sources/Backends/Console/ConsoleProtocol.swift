internal import Core

/// Feature bits of console devices (VIRTIO 1.3, section 5.3.3), as masks.
enum ConsoleFeature {
    static let size: UInt64 = 1 << 0  // VIRTIO_CONSOLE_F_SIZE
    static let multiport: UInt64 = 1 << 1  // VIRTIO_CONSOLE_F_MULTIPORT
    static let emergencyWrite: UInt64 = 1 << 2  // VIRTIO_CONSOLE_F_EMERG_WRITE
}

/// What a console device is told over the control queue, and tells (VIRTIO 1.3, section 5.3.6.2).
enum ConsoleEvent {
    static let deviceReady: UInt16 = 0  // VIRTIO_CONSOLE_DEVICE_READY
    static let deviceAdd: UInt16 = 1  // VIRTIO_CONSOLE_DEVICE_ADD
    static let portReady: UInt16 = 3  // VIRTIO_CONSOLE_PORT_READY
    static let consolePort: UInt16 = 4  // VIRTIO_CONSOLE_CONSOLE_PORT
    static let resize: UInt16 = 5  // VIRTIO_CONSOLE_RESIZE
    static let portOpen: UInt16 = 6  // VIRTIO_CONSOLE_PORT_OPEN
    static let portName: UInt16 = 7  // VIRTIO_CONSOLE_PORT_NAME
}

/// A message of the control queues: `struct virtio_console_control` and what may follow it.
struct ConsoleMessage: Equatable {
    static let headerSize = 8

    var port: UInt32
    var event: UInt16
    var value: UInt16 = 1
    var rest: [UInt8] = []

    var bytes: [UInt8] {
        var header = ConfigSpace(size: Self.headerSize)
        header.store(port, at: 0)
        header.store(event, at: 4)
        header.store(value, at: 6)
        return header.bytes + rest
    }

    /// A terminal's new size. Linux took the rows for the columns until 2025.
    static func resize(_ port: UInt32, _ size: TerminalSize) -> ConsoleMessage {
        var rest = ConfigSpace(size: 4)
        rest.store(size.columns, at: 0)
        rest.store(size.rows, at: 2)
        return ConsoleMessage(
            port: port, event: ConsoleEvent.resize, value: 0, rest: rest.bytes)
    }
}

/// The queues' numbers: two for the first port, two for control, two for each further port (VIRTIO
/// 1.3, section 5.3.2).
enum ConsoleQueue: Equatable {
    /// To the guest.
    case input(port: Int)
    /// From the guest.
    case output(port: Int)
    case controlInput
    case controlOutput

    init(_ index: Int) {
        let isInput = index % 2 == 0
        switch index / 2 {
        case 0: self = isInput ? .input(port: 0) : .output(port: 0)
        case 1: self = isInput ? .controlInput : .controlOutput
        case let pair: self = isInput ? .input(port: pair - 1) : .output(port: pair - 1)
        }
    }

    static func count(ports: Int) -> Int { 2 + 2 * ports }
}

/// The configuration space (VIRTIO 1.3, section 5.3.4).
enum ConsoleConfig {
    static let size = 12
    /// Where a driver writes a character before it has a queue.
    static let emergencyOffset = 8

    static func space(_ terminal: TerminalSize?, ports: Int) -> ConfigSpace {
        var space = ConfigSpace(size: size)
        space.store(terminal?.columns ?? 0, at: 0)
        space.store(terminal?.rows ?? 0, at: 2)
        space.store(UInt32(ports), at: 4)
        return space
    }
}
