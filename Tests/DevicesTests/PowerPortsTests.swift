import Accelerator
import DeviceFakes
import Devices
import Testing

@Suite("The test device")
struct TestDeviceTests {
    @Test("its register keeps what is written, byte by byte")
    func register() {
        let device = TestDevice(IOAPIC(machine: FakeMachine()))
        let port = RegisterWindow(device.register)
        #expect(port.write32(0, 0x1234_5678) == .none)
        #expect(port.write8(1, 0xab) == .none)
        #expect(port.read32(0) == 0x1234_ab78)
        #expect(port.read8(3) == 0x12)
        device.reset()
        #expect(port.read32(0) == 0)
    }

    @Test("its memory takes all sizes, up to its end")
    func memory() {
        let device = TestDevice(IOAPIC(machine: FakeMachine()))
        let memory = Bus()
        memory.attach(device.memory, start: 0x1000, length: TestDevice.Memory.size)
        _ = memory.write(0x1003, size: 8, 0x1122_3344_5566_7788)
        #expect(memory.read(0x1004, size: 2) == 0x6677)
        _ = memory.write(0x1000 + 0xfff8, size: 8, 7)
        _ = memory.write(0x1000 + 0xfffc, size: 8, 9)
        #expect(memory.read(0x1000 + 0xfff8, size: 8) == 7)
    }

    @Test("its wires lead to the I/O APIC's pins")
    func wires() {
        let machine = FakeMachine()
        let ioapic = IOAPIC(machine: machine)
        let device = TestDevice(ioapic)
        // Pin 5: edges, vector 0x40.
        _ = ioapic.write(offset: 0, size: 4, 0x1a)
        _ = ioapic.write(offset: 0x10, size: 4, 0x40)
        let port = RegisterWindow(device.wires)
        for level: UInt8 in [1, 1, 0, 1] { #expect(port.write8(5, level) == .none) }
        #expect(machine.takeMessages().count == 2)
        device.reset()
        #expect(machine.takeMessages().isEmpty)
    }
}

@Suite("Power-off, reset and panic ports")
struct PowerPortsTests {
    @Test(
        "only S5 with the enable bit powers off",
        arguments: [
            (0x34, MachineEffect.powerOff), (0x14, .none), (0x20, .none), (0x38, .none),
        ] as [(UInt8, MachineEffect)])
    func sleep(value: UInt8, expected: MachineEffect) {
        let sleep = RegisterWindow(SleepRegisters())
        #expect(sleep.write8(0, value) == expected)
        #expect(sleep.write8(1, value) == .none)
        #expect(sleep.read8(1) == 0)
    }

    @Test("the reset control register resets when bit 2 rises")
    func resetControl() {
        let ports = RegisterWindow(PCIConfigPorts(PCIBus(memory: Bus(), windows: [])))
        #expect(ports.write8(1, 0x02) == .none)
        #expect(ports.read8(1) == 0x02)
        #expect(ports.write8(1, 0x06) == .reset)
        #expect(ports.write8(1, 0x06) == .none)
        #expect(ports.write8(1, 0x00) == .none)
        #expect(ports.write8(1, PCIConfigPorts.resetValue) == .reset)
    }

    @Test("the panic notifier tells panics from crash kernels")
    func panic() {
        let port = RegisterWindow(PanicNotifier())
        #expect(port.read8(0) == 3)
        #expect(port.write8(0, 1) == .panicked)
        #expect(port.write8(0, 2) == .crashLoaded)
        #expect(port.write8(0, 0) == .none)
    }

    @Test(
        "what a guest writes to the exit port is the status, as QEMU makes it",
        arguments: [(0, 1), (1, 3), (0x7f, 0xff), (0x80, 1), (UInt32.max, 0xff)]
            as [(UInt32, Int32)])
    func debugExit(value: UInt32, status: Int32) {
        let device = DebugExit()
        let port = RegisterWindow(device)
        #expect(device.status == nil)
        #expect(port.read8(0) == 0)
        #expect(port.write32(0, value) == .debugExit)
        #expect(port.write32(0, 5) == .debugExit)
        #expect(device.status == status)
    }
}
