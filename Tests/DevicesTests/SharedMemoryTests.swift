import Accelerator
import Core
import DeviceFakes
@testable import Devices
import Synchronization
import Testing

@Suite("virtio-pci: memory that a device shares")
struct SharedMemoryTests {
    @Test("regions are found by capabilities, in a BAR of memory")
    func capabilities() throws {
        let shared = try DeviceWindow(sizes: [0x3000, 32 << 20])
        let bench = try VirtioBench(shared: shared)
        var offset = try #require(bench.capability(9, type: 8))
        for (id, start, size) in [(0, 0, 0x3000), (1, 2 << 20, 32 << 20)]
            as [(UInt8, UInt32, UInt32)]
        {
            #expect(bench.config.read8(offset + 2) == 24)
            #expect(bench.config.read8(offset + 3) == 8)
            #expect(bench.config.read8(offset + 4) == 2)
            #expect(bench.config.read8(offset + 5) == id)
            #expect(bench.config.read32(offset + 8) == start)
            #expect(bench.config.read32(offset + 12) == size)
            #expect(bench.config.read32(offset + 16) == 0)
            #expect(bench.config.read32(offset + 20) == 0)
            offset = UInt64(bench.config.read8(offset + 1))
        }
        // Memory of 64 bits that may be read ahead, of 64 MiB.
        #expect(bench.config.read32(0x18) & 0xF == 0b1100)
        bench.config.write32(0x18, 0xFFFF_FFFF)
        bench.config.write32(0x1C, 0xFFFF_FFFF)
        #expect(bench.config.read32(0x18) == 0xFC00_000C)
        #expect(bench.config.read32(0x1C) == 0xFFFF_FFFF)
    }

    @Test("there is no such BAR without")
    func none() throws {
        let bench = try VirtioBench()
        #expect(bench.capability(9, type: 8) == nil)
        #expect(bench.config.read32(0x18) == 0)
        #expect(bench.machine.state.withLock { $0.windows.isEmpty })
    }

    @Test("the machine hears where it is, whenever the guest moves it")
    func places() throws {
        let shared = try DeviceWindow(sizes: [64 << 20])
        let bench = try VirtioBench(shared: shared)
        let id = ObjectIdentifier(shared.memory)
        func place() -> UInt64? { bench.machine.state.withLock { $0.windows[id] } }
        #expect(place() == VirtioBench.highMemory)
        bench.config.write32(0x18, 0x0800_0000)
        #expect(place() == VirtioBench.highMemory + 0x0800_0000)
        // Outside all that is passed on.
        bench.config.write32(0x1C, 0x20)
        #expect(place() == nil)
        bench.config.write32(0x1C, 0x10)
        #expect(place() == VirtioBench.highMemory + 0x0800_0000)
        bench.config.write16(4, 0)
        #expect(place() == nil)
        bench.bus.reset()
        #expect(place() == VirtioBench.highMemory)
        // Accesses that come as to registers, while it moves, reach nothing.
        #expect(bench.function.readBAR(2, offset: 0x3000, size: 4) == 0)
        #expect(bench.function.writeBAR(2, offset: 0x3000, size: 4, 1) == .none)
        #expect(bench.device.takeCalls() == [])
    }
}
