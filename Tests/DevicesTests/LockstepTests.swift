import Accelerator
import Core
import DeviceFakes
@testable import Devices
import TestSupport
import Testing

/// A device in lockstep with its driver. The test plays both ends of the rings, whose places are
/// those of `VirtioBench`: available at 0x2000, used at 0x3000.
@Suite("virtio-pci in lockstep")
struct LockstepTests {
    let bench: VirtioBench

    init() throws {
        bench = try VirtioBench(pace: .lockstep)
        try bench.start()
        // The device has looked at the queues, and asks for notifications.
        for _ in 0..<2 { try setUsed(flags: 0, index: 0) }
        #expect(bench.function.settle())
        for kick in bench.function.kicks { kick.drain() }
        _ = bench.machine.takeVectors()
    }

    func setAvailable(flags: UInt16 = 0, index: UInt16) throws {
        try bench.ram.write(GuestAddress(0x2000), flags)
        try bench.ram.write(GuestAddress(0x2002), index)
    }

    func setUsed(flags: UInt16, index: UInt16) throws {
        try bench.ram.write(GuestAddress(0x3000), flags)
        try bench.ram.write(GuestAddress(0x3002), index)
    }

    func notify() -> Bool { bench.bar.write16(0x3000, 0) == .awaitDevices }

    @Test("a started queue is awaited until the device asks for notifications")
    func start() throws {
        let bench = try VirtioBench(pace: .lockstep)
        try bench.ram.write(GuestAddress(0x3002), 0 as UInt16)
        try bench.start()
        #expect(try bench.ram.read(GuestAddress(0x3000), as: UInt16.self) == 1)
        #expect(!bench.function.settle())
        #expect(bench.function.kicks[0].drain())
        try bench.ram.write(GuestAddress(0x3000), 0 as UInt16)
        #expect(bench.function.settle())
        #expect(bench.machine.takeVectors() == [])
    }

    @Test("the guest waits until all is used and notifications are on; then comes one interrupt")
    func request() throws {
        try setAvailable(index: 2)
        #expect(notify())
        #expect(!bench.function.settle())
        #expect(bench.function.kicks[0].drain())
        try setUsed(flags: 1, index: 1)
        #expect(!bench.function.settle())
        try setUsed(flags: 1, index: 2)
        #expect(!bench.function.settle())
        #expect(!bench.function.kicks[0].drain())
        #expect(bench.machine.takeVectors() == [])
        try setUsed(flags: 0, index: 2)
        #expect(bench.function.settle())
        #expect(bench.machine.takeVectors() == [0x51])
        #expect(bench.function.settle())
        #expect(bench.machine.takeVectors() == [])
    }

    @Test("a driver that wants no interrupt gets none, a call of the device does not count")
    func suppressed() throws {
        try setAvailable(flags: 1, index: 1)
        #expect(notify())
        try setUsed(flags: 0, index: 1)
        bench.function.calls[0].signal()
        bench.control.poll()
        #expect(bench.function.settle())
        #expect(bench.machine.takeVectors() == [])
    }

    @Test("a notification without a buffer does not reach the device")
    func nothingNew() throws {
        #expect(notify())
        #expect(bench.function.settle())
        #expect(!bench.function.kicks[0].drain())
    }

    @Test("a device that fails, a reset and a notification for no queue do not keep the guest")
    func ends() throws {
        try setAvailable(index: 1)
        #expect(notify())
        #expect(!bench.function.settle())
        bench.function.deviceFailed("test")
        #expect(bench.function.settle())
        #expect(notify())
        bench.setStatus(0)
        #expect(bench.function.settle())
        #expect(bench.bar.write16(0x3000 + 4 * 1000, 0) == .none)
    }

    @Test("what lockstep cannot follow is not on offer")
    func features() throws {
        let all = UInt64.max
        let free = VirtioPCI.transportFeatures(all, .free)
        let lockstep = VirtioPCI.transportFeatures(all, .lockstep)
        #expect(free & ~lockstep == VirtioFeature.eventIndex | VirtioFeature.packedRing)
    }
}
