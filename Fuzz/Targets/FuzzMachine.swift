import Accelerator
import Core
import Glibc
import Synchronization

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

/// A machine with 1 MiB of memory that is used again for input after input: making one takes far
/// longer than running most of them.
final class FuzzMachine {
    static let size: UInt64 = 1 << 20
    /// Behind the guest's memory; nobody may touch it.
    private static let canary: UInt64 = 0x5AFE_C0DE_5AFE_C0DE

    private let mapping: MemoryMapping
    let memory: GuestMemory
    let machine: TCGVirtualMachine
    let cpus: [TCGVCPU]
    /// The CPUs' states as they were made.
    private let pristine: [VCPUState]

    init(cpuCount: Int) throws {
        mapping = try MemoryMapping(anonymous: Int(Self.size) + 4096)
        guard
            let region = GuestRegion(start: GuestAddress(0), size: Self.size, mapping: mapping)
        else { throw FuzzFailure("there is no region") }
        memory = try GuestMemory([region])
        let machine = TCGVirtualMachine(
            memory: memory, surface: FuzzSurface(),
            options: TCGOptions(clock: .counted, cpuCount: cpuCount))
        self.machine = machine
        cpus = try (0..<cpuCount).map { try machine.makeCPU(index: $0) }
        pristine = cpus.map { $0.cpu.fields }
        for offset in stride(from: 0, to: 4096, by: 8) {
            // SAFETY: the page behind the guest's memory is part of the mapping.
            unsafe (mapping.base + Int(Self.size) + offset).storeBytes(
                of: Self.canary, as: UInt64.self)
        }
    }

    /// Where the host has the guest's memory.
    var hostAddress: UInt64 { UInt64(UInt(bitPattern: unsafe mapping.base)) }

    /// Makes everything as it was at the beginning, but for what does not show.
    func reset() {
        // SAFETY: the guest's memory is part of the mapping.
        unsafe _ = memset(mapping.base, 0, Int(Self.size))
        for (vcpu, state) in zip(cpus, pristine) {
            vcpu.reset()
            vcpu.skippedTime = 0
            vcpu.apic.codeMayHaveChanged.store(false, ordering: .relaxed)
            // The cache of decoded code stays; it is empty now.
            let old = vcpu.cpu.fields
            vcpu.cpu.fields = state
            unsafe vcpu.cpu.fields.codeCache = old.codeCache
            unsafe vcpu.cpu.fields.jumpCache = old.jumpCache
            vcpu.cpu.fields.codeViews = old.codeViews
            unsafe vcpu.cpu.fields.singleBlock = old.singleBlock
        }
    }

    func checkCanary() throws {
        for offset in stride(from: 0, to: 4096, by: 8) {
            // SAFETY: the page behind the guest's memory is part of the mapping.
            let value = unsafe (mapping.base + Int(Self.size) + offset).load(as: UInt64.self)
            try require(value == Self.canary, "memory behind the guest's was written")
        }
    }
}
