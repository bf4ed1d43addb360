internal import Devices

/// A slot of the machine: a port, and the device that is in it or waits to be put in. It belongs to
/// the machine's control thread.
final class DeviceSlot {
    enum State {
        case empty
        /// The device is being connected.
        case filling
        case plugged
        /// The guest has been asked, at this time, to do without the device.
        case leaving(since: UInt64)
        /// The device ends what it is doing.
        case emptying
    }

    let id: String
    /// The device's number in the machine's options.
    let index: Int
    /// The port's device number on the bus.
    let place: Int
    let port: PCIRootPort
    var state = State.empty
    var device: AttachedDevice?

    init(id: String, index: Int, place: Int, port: PCIRootPort) {
        self.id = id
        self.index = index
        self.place = place
        self.port = port
    }

    var isLeaving: Bool {
        if case .leaving = state { true } else { false }
    }
}
