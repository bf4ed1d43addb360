import Testing

@testable import TCG

/// The guest's vector and x87 registers while they are the host's.
@Suite("Vector state in translated code")
struct TranslatedStateTests {
    /// As FNINIT does: after a reset no exception is masked, and no register is free.
    private func initialiseX87(_ cpu: CPU) {
        unsafe cpu.fxImage.storeBytes(
            of: 0x37F, toByteOffset: FXImage.controlWord, as: UInt16.self)
        unsafe cpu.fxImage.storeBytes(of: 0, toByteOffset: FXImage.tags, as: UInt8.self)
    }

    @Test("SSE's exceptions come where the guest has not masked them, in the middle of a loop")
    func unmasked() throws {
        let machine = try BareMachine.running([
            0xB9, 0x03, 0x00, 0x00, 0x00,  // mov ecx, 3
            0xF2, 0x0F, 0x5E, 0xC1,  // again: divsd xmm0, xmm1
            0xFF, 0xC9, 0x75, 0xF8,  // dec ecx; jnz again
            0x0F, 0xAE, 0x14, 0x25, 0x00, 0x70, 0x00, 0x00,  // ldmxcsr [7000]
            0xF2, 0x0F, 0x5E, 0xC1, 0xF4,  // divsd xmm0, xmm1; hlt
        ])
        let cpu = machine.cpu
        cpu.fields.cr4 |= CR4.osxmmexcpt
        machine.put(0x7000, UInt32(0x1D80))  // division by zero is not masked
        unsafe cpu.xmm(0).storeBytes(of: 1.0, as: Double.self)
        unsafe cpu.xmm(1).storeBytes(of: 0.0, as: Double.self)
        machine.runUntilHalt()
        // Infinity by zero raises nothing; one more division of a number does.
        #expect(machine.exception == nil)
        unsafe cpu.xmm(0).storeBytes(of: 1.0, as: Double.self)
        cpu.rip = BareMachine.code + 21
        cpu.fields.isHalted = false
        machine.runUntilHalt()
        #expect(machine.exception?.vector == 19)
        #expect(machine.exception?.rip == BareMachine.code + 21)
    }

    @Test(
        "without them, translated code raises what the processor does",
        arguments: [[0x0F, 0x28, 0xC1, 0xF4], [0xD9, 0xE8, 0x90, 0xF4]] as [[UInt8]])
    func notAvailable(code: [UInt8]) throws {
        let machine = try BareMachine.running(code)
        for isSwitched in [false, true, false] {
            let ts = isSwitched ? CR0.ts : 0
            try machine.cpu.writeControlRegister(0, machine.cpu.fields.cr0 & ~CR0.ts | ts)
            initialiseX87(machine.cpu)
            machine.cpu.rip = BareMachine.code
            machine.cpu.fields.isHalted = false
            machine.runUntilHalt()
            #expect(machine.exception?.vector == (isSwitched ? 7 : nil))
        }
    }

    @Test("MASKMOVQ's registers are the physical ones, wherever the x87 stack is", arguments: 0..<8)
    func maskedStore(top: Int) throws {
        let machine = try BareMachine.running([0x0F, 0xF7, 0xD3, 0xF4])  // maskmovq mm2, mm3; hlt
        let cpu = machine.cpu
        initialiseX87(cpu)
        cpu.statusWord = UInt16(top) << 11
        let values: [(Int, UInt64)] = [(2, 0x8877_6655_4433_2211), (3, 0x80FF_007F_8000_0180)]
        for (number, value) in values {
            let place = FXImage.st0 + ((number - top) & 7) * 16
            unsafe cpu.fxImage.storeBytes(of: value, toByteOffset: place, as: UInt64.self)
        }
        cpu[7] = 0x7400
        machine.runUntilHalt()
        #expect(machine.exception == nil)
        #expect(machine.get(0x7400, as: UInt64.self) == 0x8877_0000_4400_0011)
    }

    @Test("x87 instructions and their pointers, in the middle of others")
    func x87() throws {
        let machine = try BareMachine.running([
            0xD9, 0xE8,  // fld1
            0xDC, 0x04, 0x25, 0x00, 0x70, 0x00, 0x00,  // fadd qword [7000]
            0xF2, 0x0F, 0x10, 0x04, 0x25, 0x00, 0x70, 0x00, 0x00,  // movsd xmm0, [7000]
            0xDD, 0x1C, 0x25, 0x08, 0x70, 0x00, 0x00,  // fstp qword [7008]
            0x0F, 0xAE, 0x04, 0x25, 0x00, 0x78, 0x00, 0x00, 0xF4,  // fxsave [7800]; hlt
        ])
        machine.put(0x7000, (2.5 as Double).bitPattern)
        initialiseX87(machine.cpu)
        machine.runUntilHalt()
        #expect(machine.exception == nil)
        #expect(Double(bitPattern: machine.get(0x7008, as: UInt64.self)) == 3.5)
        #expect(Double(bitPattern: machine.get(0x7800 + 160, as: UInt64.self)) == 2.5)
        // FOP, FIP and FDP of the store: the guest's, not the host's.
        #expect(machine.get(0x7806, as: UInt16.self) == 0x51C)
        #expect(machine.get(0x7808, as: UInt64.self) & 0xFFFF_FFFF == BareMachine.code + 18)
        #expect(machine.get(0x7810, as: UInt64.self) & 0xFFFF_FFFF == 0x7008)
    }
}
