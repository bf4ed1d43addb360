import Core
import Devices
import Synchronization

/// The machine's control thread for one device: work is done at once, and each watched event has a
/// thread. Counts what it has to do.
final class CountingControlPlane: ControlPlane {
    private let watchers = Mutex<[ObjectIdentifier: Watcher]>([:])
    let workCount = Atomic<Int>(0)

    var watchCount: Int { watchers.withLock { $0.count } }

    func perform(_ work: @escaping @Sendable () -> Void) {
        workCount.wrappingAdd(1, ordering: .relaxed)
        work()
    }

    func watch(_ event: EventFD, _ handler: @escaping @Sendable () -> Void) {
        guard let watcher = try? Watcher(peeking: event, handler) else { return }
        watchers.withLock { $0[ObjectIdentifier(event)] = watcher }
    }

    func unwatch(_ event: EventFD) {
        watchers.withLock { $0.removeValue(forKey: ObjectIdentifier(event)) }?.stop()
    }
}

/// A device behind the product's virtio-pci, set up through its registers like a driver does it.
final class VirtioDriver {
    private static let bar = TestSurface.busWindow.start
    /// Queue 0's notification register.
    static let notify = bar + 0x3000

    private let surface: TestSurface
    private let pci: PCIBus
    let function: VirtioPCI
    let control = CountingControlPlane()

    init(_ device: any VirtioDevice, of guest: GuestMachine) throws {
        surface = guest.surface
        pci = PCIBus(memory: surface.bus, windows: [TestSurface.busWindow])
        function = try VirtioPCI(
            device, memory: guest.memory, machine: guest.machine, control: control)
        try pci.add(function)
    }

    private func write(_ offset: UInt64, size: Int, _ value: UInt64) {
        _ = surface.writeMMIO(GuestAddress(Self.bar + offset), size: size, value)
    }

    /// Accepts VERSION_1 alone, and starts queue 0 with `vector` of the CPU as its interrupt
    /// (VIRTIO 1.3, sections 3.1 and 4.1.4.3).
    func start(_ layout: QueueLayout, vector: UInt8) {
        enableMSIX()
        // MSI-X entry 1: address, data, unmasked.
        write(0x4010, size: 4, 0xFEE0_0000)
        write(0x4018, size: 4, UInt64(vector))
        write(0x401C, size: 4, 0)
        for status in [0, 1, 3] as [UInt64] { write(20, size: 1, status) }
        for (word, value) in [(0, 0), (1, 1)] as [(UInt64, UInt64)] {
            write(8, size: 4, word)
            write(12, size: 4, value)
        }
        write(20, size: 1, 11)
        write(22, size: 2, 0)
        write(24, size: 2, UInt64(layout.size))
        write(26, size: 2, 1)
        write(32, size: 8, layout.descriptors.rawValue)
        write(40, size: 8, layout.driver.rawValue)
        write(48, size: 8, layout.device.rawValue)
        write(28, size: 2, 1)
        write(20, size: 1, 15)
    }

    private func enableMSIX() {
        var capability = Int(function.readConfig(0x34, size: 1))
        while capability != 0, function.readConfig(capability, size: 1) != 0x11 {
            capability = Int(function.readConfig(capability + 1, size: 1))
        }
        _ = function.writeConfig(capability + 2, size: 2, 0x8000)
    }

    /// Resets the device.
    func stop() { write(20, size: 1, 0) }
}
