import Accelerator
import Core

@testable import TCG

/// What a CPU's accesses reach outside memory, without memory of its own.
final class FuzzSurface: ExitSurface {
    func readPort(_ port: UInt16, size: Int) -> UInt32 { UInt32(port) &* 0x9E37_79B9 }
    func writePort(_ port: UInt16, size: Int, _ value: UInt32) -> MachineEffect {
        port == 0xF4 ? .powerOff : .none
    }
    func readMMIO(_ address: GuestAddress, size: Int) -> UInt64 {
        address.rawValue &* 0x9E37_79B9_7F4A_7C15
    }
    func writeMMIO(_ address: GuestAddress, size: Int, _ value: UInt64) -> MachineEffect { .none }
    func endOfInterrupt(vector: UInt8) {}
}

/// The local APICs of two CPUs: the register page, the MSRs, messages, timers.
struct LocalAPICTarget: FuzzTarget {
    static let name = "lapic"
    static let about = "local APIC: register page, x2APIC MSRs, IPIs, MSIs, timers"

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let mapping = try MemoryMapping(anonymous: 1 << 20)
        guard let region = GuestRegion(start: GuestAddress(0), size: 1 << 20, mapping: mapping)
        else { return false }
        let machine = TCGVirtualMachine(
            memory: try GuestMemory([region]), surface: FuzzSurface(),
            options: TCGOptions(clock: .counted, cpuCount: 2))
        let cpus = [try machine.makeCPU(index: 0), try machine.makeCPU(index: 1)]
        for vcpu in cpus {
            // Software-enabled, so that something is delivered.
            vcpu.cpu.writeAPICPage(0xF0, size: 4, 0x1FF)
        }
        var hasDelivered = false
        while !input.isEmpty {
            let vcpu = cpus[input.below(2)]
            step(vcpu, machine, &input)
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
