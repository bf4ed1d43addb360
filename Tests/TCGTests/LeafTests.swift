import CNativeRun
import Glibc
import TCGDecoder
import Testing

@testable import Differential
@testable import TCG

// SAFETY: tests only touch the block while the object lives.
/// A CPU state without memory, for instructions that only touch registers.
@safe final class RegisterCPU {
    private let block: UnsafeMutableRawPointer
    private let tlb: UnsafeMutablePointer<TLBEntry>
    private let counters: UnsafeMutablePointer<CPUCounters>
    let cpu: CPU

    init() {
        unsafe block = .allocate(
            byteCount: VCPUState.fxImageSize + MemoryLayout<VCPUState>.size, alignment: 64)
        unsafe tlb = .allocate(capacity: TLB.entries)
        for index in 0..<TLB.entries {
            let tag = TLBEntry.emptyTag(index)
            unsafe (tlb + index).initialize(
                to: TLBEntry(readTag: tag, writeTag: tag, host: 0, physical: 0))
        }
        let state = unsafe (block + VCPUState.fxImageSize).bindMemory(
            to: VCPUState.self, capacity: 1)
        unsafe counters = .allocate(capacity: 1)
        unsafe counters.initialize(to: CPUCounters())
        unsafe state.initialize(
            to: VCPUState(tlb: tlb, counters: counters, owner: UnsafeRawPointer(block)))
        unsafe state.pointee.cr0 = 0x8000_0033
        unsafe state.pointee.cr4 = 0x620
        unsafe state.pointee.codeSize = 8
        unsafe state.pointee.cpl = 3
        cpu = unsafe CPU(state)
        cpu.resetFXImage()
        cpu.initialiseX87()
    }

    deinit {
        unsafe block.deallocate()
        unsafe tlb.deallocate()
        unsafe counters.deallocate()
    }
}

/// Tests that run code natively: one at a time, because signal handlers and addresses are the
/// process's.
@Suite("Against the host CPU", .serialized)
struct HostTests {}

extension HostTests {
    @Suite("Leaf stubs") struct Leaf {
        @Test(
            "register forms do what the host's instructions do",
            arguments: [InstructionClass.vector, .x87])
        func registerForms(_ wanted: InstructionClass) throws {
            try LeafTests.compareRegisterForms(wanted)
        }
    }
}

enum LeafTests {
    static func compareRegisterForms(_ wanted: InstructionClass) throws {
        try #require(native_prepare() == 0)
        let base: UInt64 = wanted == .vector ? 0x3100_0000 : 0x3200_0000
        let code = unsafe try #require(native_map(base, 4096, 1))
        let fixture = RegisterCPU()
        let native = UnsafeMutablePointer<native_state>.allocate(capacity: 1)
        defer { unsafe native.deallocate() }
        var generator = InstructionGenerator(seed: 42)
        var random = SeededRandom(seed: 7)
        var compared = 0
        var differences: [String: String] = [:]
        while compared < 30_000 {
            let (instruction, bytes) = generator.next(wanted)
            guard instruction.isRegisterForm || !instruction.hasModRM,
                instruction.mnemonic != .maskmovdqu, instruction.mnemonic != .maskmovq
            else { continue }
            guard let leaf = LeafLibrary.shared.lower(instruction) else {
                differences["\(instruction.mnemonic)"] = "not lowered: \(bytes)"
                compared += 1
                continue
            }
            unsafe memset(code, 0xCC, 64)
            unsafe code.copyMemory(from: bytes, byteCount: bytes.count)
            unsafe native.pointee = native_state()
            unsafe StateComparison.randomise(native, fixture.cpu, &random, isFloating: true)
            unsafe native.pointee.rip = base
            unsafe native_run(native)
            var fault: Fault?
            do throws(Fault) {
                unsafe try fixture.cpu.executeLeaf(
                    leaf.descriptor, destination: leaf.destination, source: leaf.source,
                    address: 0, rip: base)
            } catch { fault = error }
            compared += 1
            let expected = unsafe native.pointee.vector
            if expected != UInt64(fault?.vector ?? 3) {
                differences["\(instruction.mnemonic)"] =
                    "\(bytes): vector \(expected), \(fault as Any)"
            } else if let text = unsafe StateComparison.difference(
                native, fixture.cpu, mask: undefinedFlags(after: instruction),
                instruction.mnemonic)
            {
                differences["\(instruction.mnemonic)"] = "\(bytes): \(text)"
            }
        }
        #expect(differences.isEmpty, "\(differences)")
    }
}
