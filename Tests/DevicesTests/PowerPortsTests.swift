import Accelerator
import DeviceFakes
import Devices
import Testing

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
}
