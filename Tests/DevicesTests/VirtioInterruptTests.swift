import Accelerator
import Core
import DeviceFakes
@testable import Devices
import Synchronization
import Testing

@Suite("Notifications and interrupts of virtio-pci")
struct VirtioInterruptTests {
    @Test("a notification reaches the queue's kick, whatever its size")
    func notification() throws {
        let bench = try VirtioBench()
        try bench.start()
        bench.bar.write16(0x3004, 1)
        bench.bar.write32(0x3004, 1)
        #expect(bench.device.setups[1]?.kick?.drain() == true)
        #expect(bench.device.setups[0]?.kick?.drain() == false)
        bench.bar.write32(0x3008, 2)
        bench.bar.write32(0x3FFC, 2)
    }

    @Test("a call becomes the queue's vector")
    func call() throws {
        let bench = try VirtioBench()
        try bench.start()
        bench.device.setups[1]?.call?.signal()
        bench.control.poll()
        #expect(bench.machine.takeVectors() == [0x52])
        bench.control.poll()
        #expect(bench.machine.takeMessages().isEmpty)
    }

    @Test("a call of a masked vector is pending until it is unmasked")
    func maskedCall() throws {
        let bench = try VirtioBench()
        try bench.start()
        bench.bar.write32(0x401C, 1)
        bench.device.setups[0]?.call?.signal()
        bench.control.poll()
        #expect(bench.machine.takeMessages().isEmpty)
        #expect(bench.bar.read32(0x5000) == 2)
        bench.bar.write32(0x401C, 0)
        #expect(bench.machine.takeVectors() == [0x51])
    }

    @Test("without MSI-X a call sets the ISR, which a read clears")
    func isr() throws {
        let bench = try VirtioBench()
        try bench.start()
        bench.config.write16(try #require(bench.capability(0x11)) + 2, 0)
        bench.device.setups[0]?.call?.signal()
        bench.control.poll()
        #expect(bench.bar.read8(0x1000) == 1)
        #expect(bench.bar.read8(0x1000) == 0)
    }

    @Test("the virtual machine takes calls while their vectors are unmasked")
    func binding() throws {
        let bench = try VirtioBench(canBind: true)
        try bench.start()
        let call = ObjectIdentifier(try #require(bench.device.setups[0]?.call))
        let bound = { bench.machine.state.withLock { $0.boundInterrupts[call] } }
        #expect(bound() == MSIMessage(address: 0xFEE0_0000, data: 0x51))
        #expect(bench.control.watchCount == 0)
        bench.bar.write32(0x401C, 1)
        #expect(bound() == nil)
        bench.device.setups[0]?.call?.signal()
        bench.control.poll()
        #expect(bench.bar.read32(0x5000) == 2)
        bench.bar.write32(0x4018, 0x61)
        bench.bar.write32(0x401C, 0)
        #expect(bench.machine.takeVectors() == [0x61])
        #expect(bound() == MSIMessage(address: 0xFEE0_0000, data: 0x61))
        bench.setStatus(0)
        #expect(bound() == nil)
        #expect(bench.control.watchCount == 0)
    }

    @Test("notifications are bound where the BAR is")
    func notifyBinding() throws {
        let bench = try VirtioBench(canBind: true)
        let bound = { bench.machine.state.withLock { Set($0.boundNotifies.keys) } }
        #expect(bound() == [0xC000_3000, 0xC000_3004])
        bench.config.write32(0x10, 0xC080_0000)
        #expect(bound() == [0xC080_3000, 0xC080_3004])
        bench.config.write16(4, 0)
        #expect(bound().isEmpty)
    }

    @Test("notifications that cannot all be bound are not bound at all, and still arrive")
    func partialNotifyBinding() throws {
        let bench = try VirtioBench(queueCount: 4, canBind: true, notifyLimit: 3)
        let bound = { bench.machine.state.withLock { $0.boundNotifies.count } }
        #expect(bound() == 0)
        bench.config.write32(0x10, 0xC080_0000)
        #expect(bound() == 0)
        let moved = RegisterWindow(bench.memory, base: 0xC080_0000)
        for queue in 0..<4 as Range<UInt64> {
            moved.write16(0x3000 + 4 * queue, UInt16(queue))
            #expect(bench.function.kicks[Int(queue)].drain())
        }
    }
}
