import Testing

@testable import TCG

/// When instructions with VEX exist (SDM volume 1, section 14.3; volume 2, section 2.4), what CPUID
/// says of them, and their registers' upper halves. What they compute is compared with the host CPU
/// (Differential/).
@Suite("AVX", .enabled(if: CPUModel.missing(.level3).isEmpty, "the host lacks AVX2"))
struct AVXTests {
    private enum Code {
        static let vpaddd: [UInt8] = [0xC5, 0xF5, 0xFE, 0xC2]  // vpaddd ymm0, ymm1, ymm2
        static let vaddps: [UInt8] = [0xC5, 0xF0, 0x58, 0xC2]  // vaddps xmm0, xmm1, xmm2
        static let vzeroupper: [UInt8] = [0xC5, 0xF8, 0x77]
        static let gather: [UInt8] = [0xC4, 0xE2, 0x75, 0x90, 0x04, 0x17]  // ... [rdi + ymm2], ymm1
        static let masked: [UInt8] = [0xC4, 0xE2, 0x75, 0x8E, 0x07]  // vpmaskmovd [rdi], ymm1, ymm0
        static let vstmxcsr: [UInt8] = [0xC5, 0xF8, 0xAE, 0x1F]
        static let all = [vpaddd, vaddps, vzeroupper, gather, masked, vstmxcsr]
        static let andn: [UInt8] = [0xC4, 0xE2, 0x70, 0xF2, 0xC2]  // andn eax, ecx, edx
        static let vmovaps: [UInt8] = [0xC5, 0xFC, 0x28, 0x07]  // vmovaps ymm0, [rdi]
        static let vmovups: [UInt8] = [0xC5, 0xFC, 0x10, 0x07]
        static let vmovapsStore: [UInt8] = [0xC5, 0xFC, 0x29, 0x07]
        static let vaddpsMemory: [UInt8] = [0xC5, 0xF4, 0x58, 0x07]
    }

    private func run(
        _ code: [UInt8], model: CPUModel.Name = .level3,
        prepare: (BareMachine) -> Void = { _ in }
    ) throws -> BareMachine {
        let machine = try BareMachine.running(code + [0xF4], model: model)
        machine.cpu.fields.cr4 |= CR4.osxsave
        machine.cpu.fields.xcr0 = 7
        machine.cpu[7] = 0x20_0000
        prepare(machine)
        machine.cpu.updateMode()
        machine.runUntilHalt()
        return machine
    }

    @Test("the model, CR4 and XCR0 must allow them", arguments: Code.all)
    func conditions(code: [UInt8]) throws {
        #expect(try run(code).exception == nil)
        #expect(try run(code, model: .level2).exception?.vector == 6)
        let withoutOSXSAVE = try run(code) { $0.cpu.fields.cr4 &= ~CR4.osxsave }
        #expect(withoutOSXSAVE.exception?.vector == 6)
        #expect(try run(code) { $0.cpu.fields.xcr0 = 3 }.exception?.vector == 6)
        #expect(try run(code) { $0.cpu.fields.cr0 |= CR0.ts }.exception?.vector == 7)
        // What is SSE's does not matter.
        let other = try run(code) {
            $0.cpu.fields.cr0 |= CR0.em
            $0.cpu.fields.cr4 &= ~CR4.osfxsr
        }
        #expect(other.exception == nil)
    }

    @Test("general registers need none of that, and no REX, 66, F2, F3 or LOCK")
    func general() throws {
        let machine = try run(Code.andn) {
            $0.cpu.fields.cr4 &= ~CR4.osxsave
            $0.cpu.fields.cr0 |= CR0.ts
            $0.cpu[1] = 0xF0
            $0.cpu[2] = 0xFF
        }
        #expect(machine.exception == nil)
        #expect(machine.cpu[0] == 0x0F)
        #expect(try run(Code.andn, model: .level2).exception?.vector == 6)
        for prefix: UInt8 in [0x40, 0x66, 0xF2, 0xF3, 0xF0] {
            #expect(try run([prefix] + Code.andn).exception?.vector == 6)
            #expect(try run([prefix] + Code.vaddps).exception?.vector == 6)
        }
    }

    @Test("outside protected mode they are undefined", arguments: [Code.vpaddd, Code.andn])
    func realMode(code: [UInt8]) throws {
        let machine = try BareMachine(model: .level3)
        let cpu = machine.cpu
        cpu.fields.cr4 |= CR4.osxsave
        cpu.fields.xcr0 = 7
        machine.put(6 * 4, 0x0600 as UInt32)
        machine.put(0x600, 0xF4 as UInt8)
        machine.put(0x5000, bytes: code + [0xF4])
        cpu.setSegment(SegmentRegister.cs, Segment(attributes: 0x9B, limit: 0xFFFF))
        cpu[4] = 0x4000
        cpu.rip = 0x5000
        cpu.fields.isNMIBlocked = false
        machine.cpu.updateMode()
        machine.runUntilHalt()
        #expect(cpu.rip == 0x601)
    }

    @Test(
        "only moves that say so want alignment",
        arguments: [
            (Code.vmovaps, 13), (Code.vmovapsStore, 13), (Code.vmovups, nil),
            (Code.vaddpsMemory, nil),
        ] as [([UInt8], UInt64?)])
    func alignment(code: [UInt8], vector: UInt64?) throws {
        #expect(try run(code) { $0.cpu[7] += 16 }.exception?.vector == vector)
        #expect(try run(code) { $0.cpu[7] += 32 }.exception == nil)
    }

    @Test("16-byte results clear the upper half, SSE's keep it")
    func upperHalves() throws {
        // vpcmpeqd ymm0-ymm2; addps xmm1, xmm1; vaddps xmm2, xmm2, xmm2; vmovups [rdi], ymm0...
        let code: [UInt8] =
            [0xC5, 0xFD, 0x76, 0xC0, 0xC5, 0xFD, 0x6F, 0xC8, 0xC5, 0xFD, 0x6F, 0xD0]
            + [0x0F, 0x58, 0xC9, 0xC5, 0xE8, 0x58, 0xD2]
        let machine = try run(code)
        #expect(machine.exception == nil)
        let ones = SIMD2<UInt64>(repeating: .max)
        #expect(machine.cpu.ymm(0).highHalf == ones)
        #expect(machine.cpu.ymm(1).highHalf == ones)
        #expect(machine.cpu.ymm(2).highHalf == SIMD2())
        let cleared = try run(code + Code.vzeroupper)
        #expect(cleared.cpu.ymm(0) == SIMD4(.max, .max, 0, 0))
        #expect(cleared.cpu.fields.hasUpperHalves == 0)
        let all = try run(code + [0xC5, 0xFC, 0x77])
        #expect(all.cpu.ymm(0) == SIMD4())
        #expect(all.cpu.ymm(15) == SIMD4())
    }

    @Test("a gather that faults has kept what it read; without a mask it reads nothing")
    func gather() throws {
        let end = BareMachine.memorySize
        func gather(mask: SIMD4<UInt64>) throws -> BareMachine {
            try run(Code.gather) {
                $0.cpu[7] = end - 8
                $0.put(end - 8, 0x1111_1111 as UInt32)
                $0.put(end - 4, 0x2222_2222 as UInt32)
                $0.cpu.setYMM(1, mask)
                $0.cpu.setYMM(0, SIMD4(repeating: 0x5555_5555_5555_5555))
                $0.cpu.setYMM(2, SIMD4(0x4_0000_0000, 0xC_0000_0008, 0, 0))
            }
        }
        let faulted = try gather(mask: SIMD4(repeating: .max))
        #expect(faulted.exception?.vector == 14)
        #expect(faulted.cpu.fields.cr2 == end)
        #expect(
            faulted.cpu.ymm(0)
                == SIMD4(
                    0x2222_2222_1111_1111, 0x5555_5555_5555_5555, 0x5555_5555_5555_5555,
                    0x5555_5555_5555_5555))
        #expect(faulted.cpu.ymm(1) == SIMD4(0, .max, .max, .max))
        let none = try gather(mask: SIMD4())
        #expect(none.exception == nil)
        #expect(none.cpu.ymm(0) == SIMD4(repeating: 0x5555_5555_5555_5555))
    }

    @Test("CPUID and CR4 show what there is")
    func processor() throws {
        let machine = try BareMachine.running([], model: .level3)
        let cpu = machine.cpu
        func leaf(_ number: UInt64, _ subleaf: UInt64 = 0) -> [UInt64] {
            cpu[0] = number
            cpu[1] = subleaf
            cpu.cpuid()
            return [cpu[0], cpu[3], cpu[1], cpu[2]]
        }
        let level3: UInt64 = 1 << 12 | 1 << 22 | 1 << 26 | 1 << 28 | 1 << 29
        #expect(leaf(1)[2] & level3 == level3)
        #expect(leaf(1)[2] >> 27 & 1 == 0)
        #expect(leaf(7)[1] & (1 << 3 | 1 << 5 | 1 << 8) == 1 << 3 | 1 << 5 | 1 << 8)
        #expect(leaf(0x8000_0001)[2] >> 5 & 1 == 1)
        #expect(leaf(0xD) == [7, 576, 832, 0])
        #expect(leaf(0xD, 1) == [7, 576, 0, 0])
        #expect(leaf(0xD, 2) == [256, 576, 0, 0])
        #expect(leaf(0xD, 3) == [0, 0, 0, 0])
        try cpu.writeControlRegister(4, cpu.fields.cr4 | CR4.osxsave)
        cpu.fields.xcr0 = 7
        #expect(leaf(1)[2] >> 27 & 1 == 1)
        #expect(leaf(0xD)[1] == 832)
        let old = try BareMachine.running([])
        #expect(
            fault { () throws(Fault) in
                try old.cpu.writeControlRegister(4, old.cpu.fields.cr4 | CR4.osxsave)
            } == .generalProtection(0))
    }

    @Test("XSETBV takes effect at once, in the middle of what was one block")
    func xsetbv() throws {
        // xor ecx, ecx; mov eax, 3; xor edx, edx; xsetbv; vpaddd
        let code: [UInt8] =
            [0x31, 0xC9, 0xB8, 3, 0, 0, 0, 0x31, 0xD2, 0x0F, 0x01, 0xD1] + Code.vpaddd
        let machine = try run(Code.vpaddd + code)
        #expect(machine.exception?.vector == 6)
        #expect(machine.exception?.rip == BareMachine.code + UInt64(code.count))
    }

    @Test("a reset empties the upper halves and XCR0")
    func reset() throws {
        let machine = try run([0xC5, 0xFD, 0x76, 0xC0])  // vpcmpeqd ymm0, ymm0, ymm0
        #expect(machine.cpu.fields.hasUpperHalves == 1)
        machine.vcpu.reset()
        #expect(machine.cpu.ymm(0) == SIMD4())
        #expect(machine.cpu.fields.xcr0 == 1)
    }
}
