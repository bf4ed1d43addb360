import Accelerator
import Core
import DeviceFakes
@testable import Devices
import Synchronization
import TestSupport
import Testing

/// A virtio device on a bus, and the driver's view of its registers.
struct VirtioBench {
    let machine: FakeMachine
    let control = InlineControlPlane()
    let device: RecordingDevice
    let function: VirtioPCI
    let bus: PCIBus
    let memory = Bus()
    let ram: GuestMemory
    let config: RegisterWindow
    let bar: RegisterWindow

    /// Where there is room for what is large.
    static let highMemory: UInt64 = 0x10_0000_0000
    static let features = VirtioFeature.version1 | VirtioFeature.ringReset | 0b1010

    init(
        queueCount: Int = 2, canBind: Bool = false, notifyLimit: Int = .max,
        pace: VirtioPCI.Pace = .free, shared: DeviceWindow? = nil
    ) throws {
        machine = FakeMachine(canBind: canBind, notifyLimit: notifyLimit)
        device = RecordingDevice(queueCount: queueCount)
        ram = try ScratchMemory([(start: 0, size: 1 << 16)]).memory
        function = try VirtioPCI(
            device, memory: ram, machine: machine, control: control, pace: pace, shared: shared)
        bus = PCIBus(
            memory: memory,
            windows: [
                PCIWindow(start: 0xC000_0000, size: 0x100_0000),
                PCIWindow(start: Self.highMemory, size: 1 << 32),
            ])
        try bus.add(function, device: 0)
        config = RegisterWindow(PCIECAM(bus))
        bar = RegisterWindow(memory, base: 0xC000_0000)
        // Vectors 0, 1, 2: data 0x50, 0x51, 0x52, unmasked.
        for vector in 0...2 as ClosedRange<UInt64> {
            bar.write32(0x4000 + vector * 16, 0xFEE0_0000)
            bar.write32(0x4008 + vector * 16, 0x50 + UInt32(vector))
            bar.write32(0x400C + vector * 16, 0)
        }
    }

    /// The offset of the first capability with `id` and, for virtio's, `type`.
    func capability(_ id: UInt8, type: UInt8? = nil) -> UInt64? {
        var offset = UInt64(config.read8(0x34))
        while offset != 0 {
            if config.read8(offset) == id, type == nil || config.read8(offset + 3) == type {
                return offset
            }
            offset = UInt64(config.read8(offset + 1))
        }
        return nil
    }

    func enableMSIX() throws {
        let offset = try #require(capability(0x11))
        config.write16(offset + 2, 0x8000)
    }

    func setStatus(_ value: UInt8) { bar.write8(20, value) }
    var status: UInt8 { bar.read8(20) }

    func acceptFeatures(_ features: UInt64) {
        for word in 0...1 as ClosedRange<UInt32> {
            bar.write32(8, word)
            bar.write32(12, UInt32(truncatingIfNeeded: features >> (32 * UInt64(word))))
        }
    }

    func setQueue(_ queue: UInt16, size: UInt16 = 128, vector: UInt16 = 0xFFFF) {
        bar.write16(22, queue)
        bar.write16(24, size)
        bar.write16(26, vector)
        bar.write32(32, 0x1000)
        bar.write32(36, 0x1)
        _ = bar.writeBytes(40, 8, 0x2000)
        bar.write32(48, 0x3000)
        bar.write16(28, 1)
    }

    /// The whole handshake of a driver.
    func start(features: UInt64 = VirtioBench.features, vectors: [UInt16] = [1, 2]) throws {
        try enableMSIX()
        setStatus(0)
        setStatus(1)
        setStatus(3)
        acceptFeatures(features)
        setStatus(11)
        bar.write16(16, 0)
        for (queue, vector) in vectors.enumerated() {
            setQueue(UInt16(queue), vector: vector)
        }
        setStatus(15)
    }

    static let layout = QueueLayout(
        size: 128, descriptors: GuestAddress(0x1_0000_1000), driver: GuestAddress(0x2000),
        device: GuestAddress(0x3000))
}
