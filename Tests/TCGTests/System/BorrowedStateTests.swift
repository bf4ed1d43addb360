import Accelerator
import Testing

@testable import TCG

/// Instructions that the CPU executes on another provider's state (TCGFallback).
@Suite("Borrowed states")
struct BorrowedStateTests {
    private static let popcnt: [UInt8] = [0xF3, 0x0F, 0xB8, 0xC1]
    /// popcnt eax, [rdi]
    private static let popcntMemory: [UInt8] = [0xF3, 0x0F, 0xB8, 0x07]
    /// mov [rdi], eax
    private static let store: [UInt8] = [0x89, 0x07]
    private static let xsetbv: [UInt8] = [0x0F, 0x01, 0xD1]

    /// Executes one instruction in 64-bit mode; faults have handlers at 6000 + 16 times the vector.
    private func execute(
        _ code: [UInt8], cpl: UInt8 = 0, _ prepare: (inout CPUState, BareMachine) -> Void
    ) throws -> (result: FallbackResult, state: CPUState, machine: BareMachine) {
        let machine = try BareMachine()
        try machine.enterLong(cpl: cpl)
        for vector in 0..<32 as Range<UInt8> {
            machine.setGate64(vector, 0x6000 + 16 * UInt64(vector))
        }
        machine.put(0x5000, bytes: code)
        var state = CPUState()
        machine.cpu.give(&state)
        state.registers[1] = 0xFF
        state.registers[7] = 0x20_0000
        prepare(&state, machine)
        let fallback = TCGFallback(memory: machine.memory, surface: machine.surface, cpuCount: 1)
        let result = fallback.execute(cpu: 0, &state)
        return (result, state, machine)
    }

    @Test("features that change nothing here are no obstacle")
    func harmless() throws {
        let (result, state, _) = try execute(Self.popcnt) { state, _ in
            state.cr4 |= CR4.osxsave | CR4.mce | CR4.pke | CR4.pge
            state.efer |= EFER.tce
        }
        #expect(result == .done)
        #expect(state.registers[0] == 8)
        #expect(state.rip == 0x5004)
    }

    /// The provider's kicks do not reach the CPU meanwhile.
    @Test("endless repetitions are left after a while, to be gone on with")
    func repetition() throws {
        let (result, state, _) = try execute([0xF3, 0xAB]) { state, _ in  // rep stosd
            // Device memory, over and over.
            state.registers[1] = .max
            state.registers[7] = BareMachine.memorySize
            state.cr0 &= ~CR0.pg
            state.efer = 0
            state.segments[1].attributes = 0xC09B
        }
        #expect(result == .done)
        #expect(state.rip == 0x5000)
        #expect(UInt32(truncatingIfNeeded: state.registers[1]) > 0xFFFF_0000)
    }

    @Test(
        "features that the CPU does not know are refused",
        arguments: [
            12,  // LA57
            14,  // SMXE
            23,  // CET
            24,  // PKS
            27,  // LASS
            28,  // LAM_SUP
            32,  // FRED
        ] as [UInt64])
    func unknownCR4(bit: UInt64) throws {
        let (result, state, _) = try execute(Self.popcnt) { state, _ in state.cr4 |= 1 << bit }
        #expect(result == .unsupported)
        #expect(state.rip == 0x5000)
        #expect(state.registers[0] != 8)
    }

    @Test("masked addresses are refused", arguments: [61, 62] as [UInt64])
    func maskedAddresses(bit: UInt64) throws {
        let (result, _, _) = try execute(Self.popcnt) { state, _ in state.cr3 |= 1 << bit }
        #expect(result == .unsupported)
    }

    @Test("EFER's segment limits and fast FXSAVE are refused", arguments: [13, 14] as [UInt64])
    func unknownEFER(bit: UInt64) throws {
        let (result, _, _) = try execute(Self.popcnt) { state, _ in state.efer |= 1 << bit }
        #expect(result == .unsupported)
    }

    /// SDM volume 3, section 4.6.2. The page at 20_0000 has key 5; `code` is the page fault's.
    @Test(
        "protection keys forbid what PKRU says",
        arguments: [
            (popcntMemory, 3, 1 << 10, 0x25), (popcntMemory, 0, 1 << 10, 0x21),
            (store, 3, 1 << 11, 0x27), (store, 0, 1 << 11, 0x23), (store, 3, 1 << 10, 0x27),
            (popcntMemory, 3, 1 << 11, nil), (popcntMemory, 3, ~(3 << 10), nil),
            (store, 3, ~(3 << 10) & ~3, nil), (store, 3, 0, nil),
        ] as [([UInt8], UInt8, Int64, UInt64?)])
    func keys(_ code: [UInt8], _ cpl: UInt8, _ pkru: Int64, _ error: UInt64?) throws {
        let (result, state, machine) = try execute(code, cpl: cpl) { state, machine in
            machine.put(BareMachine.tables + 0x2008, 1 << 21 | 0x87 | 5 << 59 as UInt64)
            state.cr4 |= CR4.pke
            state.pkru = UInt32(truncatingIfNeeded: pkru)
        }
        #expect(result == .done)
        guard let error else {
            #expect(state.rip == 0x5000 + UInt64(code.count))
            return
        }
        #expect(state.rip == 0x60E0)
        #expect(state.cr2 == 0x20_0000)
        #expect(machine.get(state.registers[4], as: UInt64.self) == error)
    }

    @Test("without CR4.PKE, keys forbid nothing")
    func noKeys() throws {
        let (_, state, _) = try execute(Self.popcntMemory, cpl: 3) { state, _ in
            state.pkru = .max
        }
        #expect(state.rip == 0x5004)
    }

    @Test(
        "XCR0 takes what the guest's CPUID has, and gives #GP for the rest",
        .enabled(if: ExtendedStateLayout.host[2].size > 0, "the host lacks AVX"),
        arguments: [(7, 3, false), (7, 7, true), (3, 3, true), (0xE7, 7, false)]
            as [(UInt64, UInt64, Bool)])
    func components(value: UInt64, permitted: UInt64, isTaken: Bool) throws {
        let (result, state, _) = try execute(Self.xsetbv) { state, _ in
            state.cr4 |= CR4.osxsave
            state.permittedXCR0 = permitted
            state.extendedImage = [UInt8](repeating: 0, count: 4096)
            state.registers[0] = value
            state.registers[1] = 0
            state.registers[2] = 0
        }
        #expect(result == .done)
        #expect(state.xcr0 == (isTaken ? value : 1))
        #expect(state.rip == (isTaken ? 0x5003 : 0x60D0))
    }

    @Test(
        "MXCSR can hold what the provider's processor can",
        arguments: [
            [0x0F, 0xAE, 0x17],  // ldmxcsr [rdi]
            [0x0F, 0xAE, 0x4F, 0xE8],  // fxrstor [rdi - 24]
        ] as [[UInt8]], [0xFFFF, 0x2_FFFF] as [UInt64])
    func misalignedSSE(code: [UInt8], mask: UInt64) throws {
        let (result, state, _) = try execute(code) { state, machine in
            state.registers[7] = 0x20_0000 + (code.count == 4 ? 24 : 0)
            machine.put(state.registers[7], UInt32(0x2_1F80))
            // That of the image in memory says nothing.
            machine.put(state.registers[7] + 4, UInt32(0x2_FFFF))
            state.cr4 |= CR4.osfxsr
            state.fxImage[3] = 0x1F80 | mask << 32
        }
        #expect(result == .done)
        let isAccepted = mask == 0x2_FFFF
        #expect(state.rip == (isAccepted ? 0x5000 + UInt64(code.count) : 0x6000 + 16 * 13))
        #expect(state.fxImage[3] == (isAccepted ? 0x2_1F80 : 0x1F80) | mask << 32)
    }

    @Test(
        "AVX works on the upper halves in the provider's image, if its guest may use them",
        .enabled(if: HostFeatures.shared.hasUpperHalves, "the host lacks AVX"),
        arguments: [
            (7, true, .done), (3, true, .done), (7, false, .done), (0xE7, true, .unsupported),
        ]
            as [(UInt64, Bool, FallbackResult)])
    func upperHalves(xcr0: UInt64, isUsed: Bool, wanted: FallbackResult) throws {
        // vpaddq ymm0, ymm1, ymm1
        let (result, state, _) = try execute([0xC5, 0xF5, 0xD4, 0xC1]) { state, _ in
            state.cr4 |= CR4.osxsave
            state.xcr0 = xcr0
            state.permittedXCR0 = xcr0
            state.extendedImage = [UInt8](repeating: 0, count: 4096)
            state.extendedImage[512] = isUsed ? 4 : 0
            state.extendedImage[576] = 0xAA
            state.extendedImage[576 + 16] = 3
            state.fxImage[FXImage.xmm0 / 8 + 2] = 5
        }
        let hasAVX512 = ExtendedStateLayout.host[6].size > 0
        guard wanted == .done || hasAVX512 else { return }
        #expect(result == wanted)
        guard wanted == .done else { return }
        let isDone = xcr0 == 7
        #expect(state.rip == (isDone ? 0x5004 : 0x6060))
        guard isDone else { return }
        #expect(state.fxImage[FXImage.xmm0 / 8] == 10)
        #expect(state.extendedImage[576] == (isUsed ? 6 : 0xAA))
        #expect(state.hasExtendedChange == isUsed)
    }
}
