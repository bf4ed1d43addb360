import Accelerator
import Core
import DeviceFakes
@testable import Devices
import TestSupport
import Testing

@Suite("virtio-pci")
struct VirtioPCITests {
    @Test("configuration space: identity and capabilities")
    func identity() throws {
        let bench = try VirtioBench()
        #expect(bench.config.read32(0) == 0x1042_1AF4)
        #expect(bench.config.read8(8) == 1)
        #expect(bench.config.read8(0x3D) == 0)
        for (type, page, length) in [(1, 0, 64), (3, 1, 1), (4, 2, 0x1000), (2, 3, 0x1000)]
            as [(UInt8, UInt32, UInt32)]
        {
            let offset = try #require(bench.capability(9, type: type))
            #expect(bench.config.read8(offset + 4) == 0)
            #expect(bench.config.read32(offset + 8) == page << 12)
            #expect(bench.config.read32(offset + 12) == length)
        }
        let notify = try #require(bench.capability(9, type: 2))
        #expect(bench.config.read32(notify + 16) == 4)
        let msix = try #require(bench.capability(0x11))
        #expect(bench.config.read16(msix + 2) == 2)
        #expect(bench.config.read32(msix + 4) == 0x4000)
        #expect(bench.config.read32(msix + 8) == 0x5000)
    }

    @Test("a driver's handshake starts its queues")
    func handshake() throws {
        let bench = try VirtioBench()
        let bar = bench.bar
        bar.write32(0, 0)
        #expect(bar.read32(4) == 0b1010)
        bar.write32(0, 1)
        #expect(bar.read32(4) == UInt32(VirtioBench.features >> 32))
        bar.write32(0, 2)
        #expect(bar.read32(4) == 0)
        #expect(bar.read16(18) == 2)
        try bench.start()
        #expect(bench.status == 15)
        #expect(
            bench.device.takeCalls() == [
                .reset, .setFeatures(VirtioBench.features),
                .start(0, VirtioBench.layout, .freshSplit),
                .start(1, VirtioBench.layout, .freshSplit),
            ])
        #expect(bar.read16(28) == 1)
        #expect(bar.read16(30) == 1)
        #expect(bar.readBytes(32, 8) == 0x1_0000_1000)
    }

    @Test(
        "features that were not offered, or without VERSION_1, are refused",
        arguments: [
            VirtioBench.features | 1, VirtioBench.features & ~VirtioFeature.version1,
        ])
    func badFeatures(features: UInt64) throws {
        let bench = try VirtioBench()
        try bench.start(features: features)
        #expect(bench.status == 3)
        #expect(bench.device.takeCalls() == [.reset])
    }

    @Test("a device that refuses features clears FEATURES_OK")
    func refusedFeatures() throws {
        let bench = try VirtioBench()
        bench.device.refusesFeatures = true
        try bench.start()
        #expect(bench.status == 3)
    }

    @Test("features are settled after FEATURES_OK, and a queue's layout once it is enabled")
    func settled() throws {
        let bench = try VirtioBench()
        try bench.start()
        bench.acceptFeatures(0)
        #expect(bench.bar.read32(12) == UInt32(VirtioBench.features >> 32))
        bench.bar.write16(24, 64)
        bench.bar.write32(32, 0)
        #expect(bench.bar.read16(24) == 128)
        #expect(bench.bar.read32(32) == 0x1000)
    }

    @Test("a packed ring starts with both wrap counters set, in any size")
    func packed() throws {
        let bench = try VirtioBench()
        bench.device.features |= VirtioFeature.packedRing
        try bench.enableMSIX()
        bench.setStatus(0)
        bench.acceptFeatures(VirtioFeature.version1 | VirtioFeature.packedRing)
        bench.setStatus(11)
        bench.setQueue(0, size: 100)
        bench.setStatus(15)
        var layout = VirtioBench.layout
        layout.size = 100
        #expect(bench.device.calls.last == .start(0, layout, .freshPacked))
    }

    @Test("the device's configuration is read and written in its own sizes")
    func deviceConfig() throws {
        let bench = try VirtioBench()
        #expect(bench.bar.read32(0x2004) == 0x0706_0504)
        #expect(bench.bar.readBytes(0x2010, 8) == 0x1716_1514_1312_1110)
        #expect(bench.bar.read32(0x2016) == 0x0000_1716)
        #expect(bench.bar.read32(0x2800) == 0)
        bench.bar.write16(0x2006, 0x1234)
        #expect(bench.device.takeCalls() == [.writeConfig(6, [0x34, 0x12])])
    }

    @Test("a configuration change counts up and interrupts")
    func configChange() throws {
        let bench = try VirtioBench()
        bench.function.configChanged()
        #expect(bench.machine.takeMessages().isEmpty)
        try bench.start()
        let generation = bench.bar.read8(21)
        bench.function.configChanged()
        #expect(bench.bar.read8(21) == generation &+ 1)
        #expect(bench.machine.takeVectors() == [0x50])
        #expect(bench.bar.read8(0x1000) == 2)
    }

    @Test("a queue that does not start makes the device ask for a reset")
    func failure() throws {
        let bench = try VirtioBench()
        bench.device.failingQueue = 1
        try bench.start()
        #expect(bench.status == 15 | 64)
        #expect(bench.machine.takeVectors() == [0x50])
        bench.setStatus(0)
        #expect(bench.status == 0)
        bench.device.failingQueue = nil
        try bench.start()
        #expect(bench.status == 15)
    }

    @Test("a split ring whose size is no power of two makes the device ask for a reset")
    func oddSize() throws {
        let bench = try VirtioBench()
        bench.setStatus(0)
        bench.acceptFeatures(VirtioBench.features)
        bench.setStatus(11)
        bench.setQueue(0, size: 100)
        bench.setStatus(15)
        #expect(bench.status & 64 != 0)
        #expect(!bench.device.calls.contains { if case .start = $0 { true } else { false } })
    }

    @Test("sizes, vectors and queues out of range are not taken")
    func outOfRange() throws {
        let bench = try VirtioBench()
        let bar = bench.bar
        bar.write16(24, 512)
        #expect(bar.read16(24) == 256)
        bar.write16(24, 0)
        #expect(bar.read16(24) == 256)
        bar.write16(26, 3)
        #expect(bar.read16(26) == 0xFFFF)
        bar.write16(16, 0x8000)
        #expect(bar.read16(16) == 0xFFFF)
        bar.write16(22, 2)
        #expect(bar.read16(24) == 0)
        bar.write16(28, 1)
        bar.write16(24, 8)
        #expect(bar.read16(28) == 0)
    }

    @Test("a driver cannot go back by clearing bits, nor skip FEATURES_OK")
    func statusOrder() throws {
        let bench = try VirtioBench()
        bench.setStatus(7)
        #expect(bench.status == 3)
        bench.setStatus(0x40)
        #expect(bench.status == 3)
        try bench.start()
        bench.setStatus(1)
        #expect(bench.status == 15)
        bench.setStatus(0x80)
        #expect(bench.status == 0x8F)
    }

    @Test("a reset stops everything and forgets what the driver set")
    func reset() throws {
        let bench = try VirtioBench()
        try bench.start()
        _ = bench.device.takeCalls()
        bench.setStatus(0)
        #expect(bench.device.takeCalls() == [.reset])
        #expect(bench.control.watchCount == 0)
        #expect(bench.status == 0)
        bench.bar.write16(22, 0)
        #expect(bench.bar.read16(28) == 0)
        #expect(bench.bar.read16(26) == 0xFFFF)
        #expect(bench.bar.read16(24) == 256)
        #expect(bench.bar.read16(16) == 0xFFFF)
    }

    @Test("the bus's reset is that of the PCI part, and leaves the device to its owner")
    func busReset() throws {
        let bench = try VirtioBench()
        try bench.enableMSIX()
        try bench.start()
        bench.config.write32(0x10, 0xC080_0004)
        _ = bench.device.takeCalls()
        bench.function.reset()
        #expect(bench.device.takeCalls() == [.reset])
        #expect(bench.function.msix.isEnabled)
        bench.bus.reset()
        #expect(bench.device.takeCalls().isEmpty)
        #expect(!bench.function.msix.isEnabled)
        #expect(bench.function.msix.message(0) == nil)
        #expect(bench.config.read32(0x10) == 0xC000_0004)
        #expect(bench.bar.read32(0x4000) == 0)
        #expect(bench.status == 0)
    }

    @Test("a notification with data is one of the register's queue")
    func notificationData() throws {
        let bench = try VirtioBench()
        let features = VirtioBench.features | VirtioFeature.notificationData
        bench.device.features = features
        try bench.start(features: features)
        #expect(bench.status == 15)
        bench.bar.write32(0x3004, 0x8005_0001)
        #expect(bench.device.setups[1]?.kick?.drain() == true)
        #expect(bench.device.setups[0]?.kick?.drain() == false)
    }

    @Test("a driver's notification waits for no event that a back end has filled")
    func fullEvent() throws {
        let bench = try VirtioBench()
        try bench.start()
        let kick = try #require(bench.device.setups[1]?.kick)
        #expect(try passesFullEvents(kick) { bench.bar.write16(0x3004, 1) })
        #expect(kick.drain())
    }

    @Test("one queue is reset and started again")
    func queueReset() throws {
        let bench = try VirtioBench()
        try bench.start()
        _ = bench.device.takeCalls()
        bench.bar.write16(22, 0)
        bench.bar.write16(58, 1)
        #expect(bench.device.takeCalls() == [.stop(0)])
        #expect(bench.bar.read16(58) == 0)
        #expect(bench.bar.read16(28) == 0)
        bench.setQueue(0, vector: 1)
        #expect(bench.device.takeCalls() == [.start(0, VirtioBench.layout, .freshSplit)])
        bench.device.setups[0]?.call?.signal()
        bench.control.poll()
        #expect(bench.machine.takeVectors() == [0x51])
    }

    @Test("the configuration access capability reaches the BAR")
    func window() throws {
        let bench = try VirtioBench()
        let window = try #require(bench.capability(9, type: 5))
        bench.config.write32(window + 8, 20)
        bench.config.write32(window + 12, 1)
        bench.config.write8(window + 16, 1)
        #expect(bench.status == 1)
        #expect(bench.config.read8(window + 16) == 1)
        bench.config.write32(window + 8, 0x2004)
        bench.config.write32(window + 12, 4)
        #expect(bench.config.read32(window + 16) == 0x0706_0504)
        for (offset, length) in [(0x7FFE, 4), (0x8000, 1), (1, 2), (0, 3), (0, 0)]
            as [(UInt32, UInt32)]
        {
            bench.config.write32(window + 8, offset)
            bench.config.write32(window + 12, length)
            bench.config.write32(window + 16, 0)
            _ = bench.config.read32(window + 16)
        }
        #expect(bench.status == 1)
    }
}
