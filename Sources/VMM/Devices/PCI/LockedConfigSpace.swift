internal import Synchronization

/// A configuration space that several vCPUs may access, and its state after power-on.
final class LockedConfigSpace: Sendable {
    private let initial: PCIConfigSpace
    private let current: Mutex<PCIConfigSpace>

    init(_ space: PCIConfigSpace) {
        initial = space
        current = Mutex(space)
    }

    func read(_ offset: Int, size: Int) -> UInt32 {
        current.withLock { $0.read(offset, size: size) }
    }

    func write(_ offset: Int, size: Int, _ value: UInt32) {
        current.withLock { $0.write(offset, size: size, value) }
    }

    func overwrite(_ offset: Int, size: Int, _ value: UInt32) {
        current.withLock { $0.overwrite(offset, size: size, value) }
    }

    var placements: [PCIBARPlacement] { current.withLock { $0.placements } }

    /// Programs a BAR and switches memory decoding on.
    func setBAR(_ bar: Int, address: UInt64) {
        current.withLock {
            $0.setBAR(bar, address: address)
            $0.setCommand($0.command | PCIConfigSpace.memoryEnable)
        }
    }

    func reset() { current.withLock { $0 = initial } }
}
