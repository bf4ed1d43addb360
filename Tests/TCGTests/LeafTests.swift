import CNativeRun
import Glibc
import TCGDecoder
import Testing

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
    static let interesting: [UInt64] = [
        0, 1, 0x3F80_0000, 0xBF80_0000_3F80_0000, 0x3FF0_0000_0000_0000, 0x7FF0_0000_0000_0000,
        0xFFF8_0000_0000_0001, 0x8000_0000_0000_0000, 0xFFFF_FFFF_FFFF_FFFF, 0x0101_0101_0101_0101,
        0x7F80_0000_0080_0000, 0x0000_0001_8000_0001, 0x0010_0000_0000_0000,
        0x3FE0_0000_0000_0000, 0x3F00_0000_0080_0000,
    ]

    static func value(_ random: inout SeededRandom) -> UInt64 {
        let word = random.next()
        return word & 3 == 0 ? interesting[Int(word >> 8) % interesting.count] : random.next()
    }

    /// Mostly all floating-point exceptions masked.
    private static func exceptionMasks(_ random: inout SeededRandom) -> UInt64 {
        let word = random.next()
        return word & 3 == 0 ? (word >> 8 | word >> 16) & 0x3F : 0x3F
    }

    /// Gives both CPUs the same random registers.
    static func randomise(
        _ native: UnsafeMutablePointer<native_state>, _ cpu: CPU, _ random: inout SeededRandom,
        isFloating: Bool
    ) {
        unsafe withUnsafeMutableBytes(of: &native.pointee.fx) { image in
            unsafe image.copyMemory(from: UnsafeRawBufferPointer(start: cpu.fxImage, count: 512))
            for offset in stride(from: 160, to: 416, by: 8) {
                unsafe image.storeBytes(of: value(&random), toByteOffset: offset, as: UInt64.self)
            }
            if isFloating {
                for index in 0..<8 {
                    let low = value(&random)
                    let exponent = unsafe [0, 0x7FFF, 0x3FFF, 0x4000, 0xBFFF, 0x8000]
                        .randomElement(using: &random).unsafelyUnwrapped
                    let high = random.next() & 1 == 0 ? exponent : Int(random.next() & 0xFFFF)
                    let normal = exponent == 0 ? low : low | 1 << 63
                    unsafe image.storeBytes(
                        of: normal, toByteOffset: 32 + 16 * index, as: UInt64.self)
                    unsafe image.storeBytes(
                        of: UInt64(high), toByteOffset: 40 + 16 * index, as: UInt64.self)
                }
                unsafe image.storeBytes(
                    of: UInt16(truncatingIfNeeded: random.next()) & 0x7F00, toByteOffset: 2,
                    as: UInt16.self)
                unsafe image.storeBytes(
                    of: UInt8(truncatingIfNeeded: random.next() | random.next()), toByteOffset: 4,
                    as: UInt8.self)
                let masks = UInt16(truncatingIfNeeded: exceptionMasks(&random))
                unsafe image.storeBytes(
                    of: UInt16(truncatingIfNeeded: random.next()) & 0xF00 | masks | 0x40,
                    toByteOffset: 0, as: UInt16.self)
            }
            // Rounding, DAZ and FTZ vary.
            let masks = UInt32(truncatingIfNeeded: exceptionMasks(&random)) << 7
            unsafe image.storeBytes(
                of: UInt32(truncatingIfNeeded: random.next()) & 0xE040 | masks, toByteOffset: 24,
                as: UInt32.self)
            unsafe cpu.fxImage.copyMemory(from: image.baseAddress.unsafelyUnwrapped, byteCount: 512)
        }
        unsafe randomiseUpperHalves(native, cpu, &random)
        unsafe withUnsafeMutableBytes(of: &native.pointee.registers) { registers in
            for index in 0..<16 {
                let word = value(&random)
                unsafe registers.storeBytes(of: word, toByteOffset: index * 8, as: UInt64.self)
                cpu[UInt8(index)] = word
            }
        }
        let flags = random.next() & RFLAGS.arithmetic
        unsafe native.pointee.rflags = 0x202 | flags
        cpu.setArithmeticFlags(flags)
    }

    private static func randomiseUpperHalves(
        _ native: UnsafeMutablePointer<native_state>, _ cpu: CPU, _ random: inout SeededRandom
    ) {
        cpu.fields.hasUpperHalves = 0
        guard HostFeatures.shared.hasUpperHalves else { return }
        unsafe native.pointee.has_upper = 1
        cpu.fields.hasUpperHalves = random.next() & 3 != 0 ? 1 : 0
        unsafe withUnsafeMutableBytes(of: &native.pointee.upper) { upper in
            for word in 0..<32 {
                let value = cpu.fields.hasUpperHalves != 0 ? value(&random) : 0
                unsafe upper.storeBytes(of: value, toByteOffset: 8 * word, as: UInt64.self)
                // Without them, what is there means nothing.
                cpu.fields.upperHalves[word] =
                    cpu.fields.hasUpperHalves != 0 ? value : random.next()
            }
        }
    }

    /// The flags of MXCSR that are not compared: what overflow and underflow leave of PE when they
    /// are not masked, and everything where DPPS and DPPD stop half-way.
    private static func unknownMXCSR(
        _ native: UnsafeMutablePointer<native_state>, _ mnemonic: Mnemonic
    ) -> UInt8 {
        guard unsafe native.pointee.vector == 19 else { return 0 }
        return mnemonic == .dpps || mnemonic == .dppd ? 0x3F : 0x20
    }

    /// The first difference between the two, in words.
    static func difference(
        _ native: UnsafeMutablePointer<native_state>, _ cpu: CPU, mask: UInt64,
        _ mnemonic: Mnemonic
    ) -> String? {
        var text: String?
        let unknown = unsafe unknownMXCSR(native, mnemonic)
        unsafe withUnsafeBytes(of: &native.pointee.registers) { registers in
            for index in 0..<16 {
                let expected = unsafe registers.load(fromByteOffset: index * 8, as: UInt64.self)
                if expected != cpu[UInt8(index)] {
                    text =
                        "r\(index) \(String(cpu[UInt8(index)], radix: 16)) not "
                        + String(expected, radix: 16)
                }
            }
        }
        let flags = unsafe native.pointee.rflags & RFLAGS.arithmetic & ~mask
        let own = cpu.arithmeticFlags & ~mask
        if flags != own {
            text = "flags \(String(own, radix: 16)) not \(String(flags, radix: 16))"
        }
        unsafe withUnsafeBytes(of: &native.pointee.upper) { upper in
            for number in 0..<UInt8(16) where unsafe native.pointee.has_upper != 0 {
                let expected = unsafe upper.loadUnaligned(
                    fromByteOffset: 16 * Int(number), as: SIMD2<UInt64>.self)
                let own = cpu.ymm(number).highHalf
                if own != expected { text = "upper half of ymm\(number): \(own) not \(expected)" }
            }
        }
        unsafe withUnsafeBytes(of: &native.pointee.fx) { image in
            for offset in Array(0..<5) + Array(24..<28) + Array(32..<416) {
                // FOP, FIP and FDP differ, and so do the reserved bytes of the registers.
                if offset >= 32, offset < 160, offset & 15 > 9 { continue }
                let expected = unsafe image[offset]
                let actual = unsafe cpu.fxImage.load(fromByteOffset: offset, as: UInt8.self)
                if (expected ^ actual) & (offset == 24 ? ~unknown : 0xFF) != 0 {
                    text = "FXSAVE image at \(offset): \(actual) not \(expected)"
                    return
                }
            }
        }
        return text
    }

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
            unsafe Self.randomise(native, fixture.cpu, &random, isFloating: true)
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
            } else if let text = unsafe Self.difference(
                native, fixture.cpu, mask: undefinedFlags(after: instruction),
                instruction.mnemonic)
            {
                differences["\(instruction.mnemonic)"] = "\(bytes): \(text)"
            }
        }
        #expect(differences.isEmpty, "\(differences)")
    }
}
