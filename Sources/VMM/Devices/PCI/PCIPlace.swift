internal import Accelerator

/// A range of addresses that BARs may be in.
package struct PCIWindow: Equatable, Sendable {
    package var start: UInt64
    package var size: UInt64

    package init(start: UInt64, size: UInt64) {
        self.start = start
        self.size = size
    }

    func contains(_ address: UInt64, size count: UInt64) -> Bool {
        address >= start && address - start < size && count <= size - (address - start)
    }
}

/// Adding a function to the bus failed: all places or all addresses are taken.
package struct PCIError: Error, Sendable, CustomStringConvertible {
    package let description: String
}

/// A place for a function.
package enum PCIPlace: Hashable, Sendable {
    /// Device 0-31 of bus 0.
    case device(Int)
    /// The card behind the root port that is this device of bus 0.
    case behind(Int)

    /// In the order in which a guest finds them.
    var order: Int {
        switch self {
        case .device(let number): number
        case .behind(let port): 32 + port
        }
    }
}

/// A BAR as a place on the memory bus.
final class PCIBARRegion: BusDevice {
    private let function: any PCIFunction
    private let bar: Int

    init(_ function: any PCIFunction, _ bar: Int) {
        self.function = function
        self.bar = bar
    }

    func read(offset: UInt64, size: Int) -> UInt64 {
        function.readBAR(bar, offset: offset, size: size)
    }

    func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
        function.writeBAR(bar, offset: offset, size: size, value)
    }
}
