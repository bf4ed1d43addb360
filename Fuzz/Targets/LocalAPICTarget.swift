import Accelerator
import Core

@testable import TCG

/// The local APICs of two CPUs: the register page, the MSRs, messages, timers.
struct LocalAPICTarget: FuzzTarget {
    static let name = "lapic"
    static let about = "local APIC: register page, x2APIC MSRs, IPIs, MSIs, timers"

    /// IPIs of all kinds from one CPU to the other, by the register page and by MSRs; MSIs; the
    /// timer in each of its modes.
    static let seeds: [[UInt8]] = [
        FuzzSeed.make { seed in
            putWrite(&seed, cpu: 0, 0x310, 1 << 24)
            for command in [0x4041, 0x4500, 0x4608, 0x4400, 0x8_4042, 0xC_4043] as [UInt64] {
                putWrite(&seed, cpu: 0, 0x300, command)
                seed.choose(1, of: 2)
                seed.choose(7, of: 8)
                seed.putZeroes(8)
                putWrite(&seed, cpu: 1, 0xB0, 0)
            }
        },
        FuzzSeed.make { seed in
            seed.choose(0, of: 2)
            seed.choose(5, of: 8)
            seed.choose(3, of: 4)
            seed.putEdge(0xFEE0_0D00)
            for value in [1 << 32 | 0x4041, 0x4_0042] as [UInt64] {
                seed.choose(0, of: 2)
                seed.choose(3, of: 8)
                seed.choose(0x30, of: 64)
                seed.putEdge(value)
            }
        },
        FuzzSeed.make { seed in
            for data in [0x41, 0x8042, 0x143] as [UInt32] {
                seed.choose(0, of: 2)
                seed.choose(6, of: 8)
                seed.put(0 as UInt32)
                seed.put(data)
            }
        },
        FuzzSeed.make { seed in
            for (vector, count) in [(0x41, 100), (0x2_0042, 100), (0x4_0043, 0)]
                as [(UInt64, UInt64)]
            {
                putWrite(&seed, cpu: 0, 0x320, vector)
                putWrite(&seed, cpu: 0, 0x380, count)
                seed.choose(0, of: 2)
                seed.choose(7, of: 8)
                seed.put(true)
                seed.putEdge(50)
                seed.put(true)
                seed.put(1 << 20 as UInt32)
            }
        },
    ]

    private static func putWrite(
        _ seed: inout FuzzSeed, cpu: Int, _ register: Int, _ value: UInt64
    ) {
        seed.choose(cpu, of: 2)
        seed.choose(0, of: 8)
        seed.choose(register >> 4, of: 64)
        seed.choose(0, of: 8)
        seed.putEdge(value)
    }

    private let machine: FuzzMachine

    init() throws { machine = try FuzzMachine(cpuCount: 2) }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        machine.reset()
        let cpus = machine.cpus
        for vcpu in cpus {
            // Software-enabled, so that something is delivered.
            vcpu.cpu.writeAPICPage(0xF0, size: 4, 0x1FF)
        }
        var hasDelivered = false
        while !input.isEmpty {
            let vcpu = cpus[input.below(2)]
            step(vcpu, machine.machine, &input)
            hasDelivered = hasDelivered || vcpu.apic.hasDeliverable
            try check(vcpu)
        }
        return hasDelivered
    }

    private func step(
        _ vcpu: TCGVCPU, _ machine: TCGVirtualMachine, _ input: inout FuzzInput
    ) {
        let cpu = vcpu.cpu
        switch input.below(8) {
        case 0, 1:
            let offset = UInt32(input.below(64)) << 4 | (input.rarely(8) ? UInt32(input.byte()) : 0)
            cpu.writeAPICPage(offset & 0xFFF, size: 4, input.edge())
        case 2:
            let offset = UInt32(input.number(UInt16.self)) & 0xFFF
            _ = cpu.readAPICPage(offset, size: input.pick([4, 1, 2, 8]))
        case 3: try? cpu.writeX2APIC(UInt32(input.below(64)), input.edge())
        case 4: _ = try? cpu.readX2APIC(UInt32(input.below(64)))
        case 5:
            let base = input.rarely(4) ? input.edge() : 0xFEE0_0000 | UInt64(input.byte()) << 8
            try? cpu.writeAPICBase(base)
        case 6:
            machine.signalMSI(
                address: 0xFEE0_0000 | UInt64(input.number(UInt32.self) & 0xF_FFFF),
                data: input.number())
        default:
            cpu.setTimerDeadline(input.flag() ? vcpu.guestTime() &+ input.edge() : 0)
            vcpu.skippedTime &+=
                input.flag() ? UInt64(input.number(UInt32.self)) : input.edge() >> 2
            cpu.fields.systemFlags |= RFLAGS.interruptEnable
            _ = cpu.serviceInterrupts()
        }
    }

    private func check(_ vcpu: TCGVCPU) throws {
        let registers = vcpu.apic.with { $0 }
        try require(
            vcpu.cpu.fields.apicPage
                == (registers.isEnabled && !registers.isX2
                    ? registers.base & PageEntry.address : .max),
            "the register page is not where APIC_BASE says")
        try require(
            registers.requested.register(0) & 0xFFFF == 0,
            "a vector below 16 is requested")
    }
}
