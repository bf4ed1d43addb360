import CNativeRun
import Glibc
import TCGDecoder
import Testing

@testable import Differential
@testable import TCG

/// The segments that a series of comparisons runs in: code, stack and data as descriptors have
/// them (bits 40-55), the data segments' base within the data pages, and their limit.
struct SegmentedWorld: Sendable, CustomTestStringConvertible {
    var name: String
    var mode: CodeMode
    var code: UInt32
    var stack: UInt32
    var data: UInt32
    var base: UInt64 = 0
    var limit: UInt32 = 0x1FFF

    var testDescription: String { name }

    static let all = [
        SegmentedWorld(
            name: "32-bit code and stack", mode: .bits32, code: 0x40FB, stack: 0x40F3,
            data: 0x40F3),
        SegmentedWorld(
            name: "16-bit code and stack", mode: .bits16, code: 0xFB, stack: 0xF3, data: 0xF3),
        SegmentedWorld(
            name: "32-bit code, 16-bit stack, data with a base", mode: .bits32, code: 0x40FB,
            stack: 0xF3, data: 0x40F3, base: 0x234, limit: 0x1234),
        SegmentedWorld(
            name: "16-bit code, read-only data", mode: .bits16, code: 0xFB, stack: 0x40F3,
            data: 0xF1),
        SegmentedWorld(
            name: "32-bit code, data expands down", mode: .bits32, code: 0x40FB, stack: 0x40F3,
            data: 0x40F7, limit: 0xFFF),
    ]
}

extension HostTests {
    /// Random instructions of 32- and 16-bit code in segments of a local descriptor table, on the
    /// host CPU and in the interpreter.
    @Suite("Segmented code against the host CPU")
    struct SegmentedTests {
        @Test("single instructions", arguments: SegmentedWorld.all)
        func singleInstructions(_ world: SegmentedWorld) throws {
            let count = DifferentialTests.setting("APUS_DIFFERENTIAL_COUNT") ?? 100_000
            let index = SegmentedWorld.all.firstIndex { $0.name == world.name } ?? 0
            let run = try SegmentedRun(
                world, index: index, seed: DifferentialTests.setting("APUS_DIFFERENTIAL_SEED") ?? 1)
            guard run.hasTable else { return }
            run.compare(count: Int(count))
            #expect(
                run.differences.isEmpty,
                "\(run.differences.count) kinds: \(run.differences.sorted { $0.key < $1.key })")
        }
    }
}

// SAFETY: the native pages stay mapped for the process's life; the state lives with this object.
@safe final class SegmentedRun {
    private let world: SegmentedWorld
    private let guest: UserModeGuest
    private let native = UnsafeMutablePointer<native_state>.allocate(capacity: 1)
    private let nativeData: UnsafeMutableRawPointer
    private let nativeCode: UnsafeMutableRawPointer
    private let pristine: UnsafeMutableRawPointer
    private var generator: InstructionGenerator
    private var random: SeededRandom
    private let selectors: [Int32]
    private(set) var differences: [String: String] = [:]

    private static let size = Int(UserModeGuest.dataSize)

    /// Kernels without local descriptor tables exist.
    var hasTable: Bool { !selectors.contains(-1) }

    init(_ world: SegmentedWorld, index: Int, seed: UInt64) throws {
        self.world = world
        try #require(native_prepare() == 0)
        let place = 0x5000_0000 + UInt64(index) << 20
        unsafe nativeData = try #require(native_map(place, UInt64(Self.size), 0))
        unsafe nativeCode = try #require(native_map(place + 0x8_0000, 0x1000, 1))
        let entry = UInt32(index * 3)
        selectors = [
            native_set_segment(entry, UInt32(place + 0x8_0000), 0xFFF, world.code),
            native_set_segment(entry + 1, UInt32(place), 0x1FFF, world.stack),
            native_set_segment(
                entry + 2, UInt32(place + world.base), world.limit, world.data),
        ]
        guest = try UserModeGuest()
        generator = InstructionGenerator(seed: seed, mode: world.mode)
        random = SeededRandom(seed: seed &* 77)
        unsafe pristine = .allocate(byteCount: Self.size, alignment: 16)
        for offset in stride(from: 0, to: Self.size, by: 8) {
            unsafe pristine.storeBytes(
                of: StateComparison.value(&random), toByteOffset: offset, as: UInt64.self)
        }
        unsafe nativeData.copyMemory(from: pristine, byteCount: Self.size)
        unsafe guest.data.copyMemory(from: pristine, byteCount: Self.size)
        unsafe memset(nativeCode, 0xCC, 4096)
        unsafe memset(guest.code, 0xCC, 4096)
    }

    deinit {
        unsafe native.deallocate()
        unsafe pristine.deallocate()
    }

    func compare(count: Int) {
        for number in 0..<count where differences.count < 40 {
            let wanted: InstructionClass =
                number & 3 == 0 ? .x87 : number & 3 == 1 ? .vector : .integer
            let (instruction, bytes) = generator.next(wanted)
            // The guest's CPU does not have these, the host's has.
            if instruction.mnemonic == .lzcnt || instruction.mnemonic == .tzcnt { continue }
            // Whether bytes that are not selected may fault is the processor's choice.
            if instruction.mnemonic == .maskmovq || instruction.mnemonic == .maskmovdqu { continue }
            unsafe native.pointee = native_state()
            enterUserMode()
            unsafe StateComparison.randomise(native, guest.cpu, &random, isFloating: wanted == .x87)
            // What jumps to other segments does not load them.
            unsafe native.pointee.has_upper = 0
            guest.cpu.fields.hasUpperHalves = 0
            placeOperands(instruction)
            run(instruction, bytes)
        }
    }

    private func enterUserMode() {
        guest.enterUserMode()
        let cpu = guest.cpu
        cpu.setSegment(
            SegmentRegister.cs,
            Segment(
                selector: 0x2B, attributes: world.code, limit: 0xFFF,
                base: UserModeGuest.codeBase))
        cpu.setSegment(
            SegmentRegister.ss,
            Segment(
                selector: 0x23, attributes: world.stack, limit: 0x1FFF,
                base: UserModeGuest.dataBase))
        for register in [SegmentRegister.ds, SegmentRegister.es] {
            cpu.setSegment(
                register,
                Segment(
                    selector: 0x23, attributes: world.data, limit: world.limit,
                    base: UserModeGuest.dataBase + world.base))
        }
        cpu.rip = 0x100
        // A wild branch may find a PUSHF.
        cpu.setSystemFlags(RFLAGS.interruptEnable)
        cpu.updateMode()
        unsafe native.pointee.cs = UInt16(selectors[0])
        unsafe native.pointee.ss = UInt16(selectors[1])
        unsafe native.pointee.ds = UInt16(selectors[2])
        unsafe native.pointee.es = UInt16(selectors[2])
        unsafe native.pointee.rip = 0x100
    }

    // MARK: Operands

    private func set(_ register: UInt8, _ value: UInt64) {
        unsafe StateComparison.set(register, value, native, guest.cpu)
    }

    /// An offset that is inside the segments more often than not.
    private func target() -> UInt64 {
        let word = random.next()
        if word & 63 == 0 { return word >> 8 & 0xFFFF }
        return (0x1000 &+ (word >> 8) % 0xE00) & (word & 0xC0 == 0 ? ~0 : ~7)
    }

    private func placeOperands(_ instruction: Instruction) {
        set(4, target() | random.next() << 32)
        switch instruction.mnemonic {
        case .movs, .cmps, .stos, .lods, .scas:
            set(6, target())
            set(7, target())
            if !instruction.prefixes.isDisjoint(with: [.rep, .repne]) {
                set(1, random.next() & 31)
            }
            let flags = random.next() & RFLAGS.df
            unsafe native.pointee.rflags |= flags
            unsafe guest.cpu.state.pointee.systemFlags |= flags
        case .xlat: set(3, target())
        case .leave, .enter: set(5, target())
        case .bt, .bts, .btr, .btc:
            if instruction.operands[1].kind == .general {
                set(
                    instruction.operands[1].register,
                    UInt64(bitPattern: Int64(random.next() & 0xFFF) - 0x800))
            }
        default: break
        }
        let memory = instruction.memory
        guard memory.base < 16 else { return }
        var rest = UInt64(bitPattern: memory.displacement)
        if memory.index < 16, memory.index != memory.base {
            if memory.index != 4 { set(memory.index, random.next() & 0xFF) }
            rest = rest &+ guest.cpu[memory.index] &* UInt64(memory.scale)
        }
        set(memory.base, target() &- rest)
    }

    // MARK: Running

    private func run(_ instruction: Instruction, _ bytes: [UInt8]) {
        unsafe (nativeCode + 0x100).copyMemory(from: bytes, byteCount: bytes.count)
        unsafe (guest.code + 0x100).copyMemory(from: bytes, byteCount: bytes.count)
        guest.cpu.invalidateCode(physical: UserModeGuest.codeBase, count: 4096)
        unsafe native_run(native)
        let ending = guest.run()
        let name = "\(instruction.mnemonic) \(instruction.operandSize)"
        if differences[name] == nil, let text = difference(instruction, ending) {
            differences[name] =
                bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
                + ": " + text
        }
        unsafe memset(nativeCode + 0x100, 0xCC, 16)
        unsafe memset(guest.code + 0x100, 0xCC, 16)
        unsafe nativeData.copyMemory(from: pristine, byteCount: Self.size)
        unsafe guest.data.copyMemory(from: pristine, byteCount: Self.size)
    }

    private func difference(
        _ instruction: Instruction, _ ending: UserModeGuest.Ending?
    ) -> String? {
        guard let ending else { return "did not end" }
        let expected = unsafe native.pointee
        // A branch into its own bytes may find what the two worlds do not share (PUSH DS), or INT1,
        // whose RIP not every hypervisor below us gets right.
        let isBranch = [.call, .jmp, .ret].contains(instruction.mnemonic)
        if isBranch, (0x101...0x110).contains(ending.rip) { return nil }
        // Which of two operands faults first is the processor's choice.
        let faults = FaultLatitude.faults
        if instruction.mnemonic == .cmps, faults.contains(expected.vector),
            faults.contains(ending.vector)
        {
            return nil
        }
        let controlWord = unsafe guest.cpu.fxImage.load(as: UInt16.self)
        let latitude = FaultLatitude(
            instruction, vector: ending.rip == 0x100 ? ending.vector : 3, controlWord: controlWord)
        if expected.vector != ending.vector || expected.rip != ending.rip {
            if latitude.other { return nil }
            return "exception \(ending.vector) at \(String(ending.rip, radix: 16)), not "
                + "\(expected.vector) at \(String(expected.rip, radix: 16))"
        }
        // The guest has pages at low addresses, which an offset may wrap to.
        let isLow = ending.vector == 14 && guest.cpu.fields.cr2 < UserModeGuest.lowSize
        let hasError = ending.vector >= 10 && ending.vector <= 14 && !isLow
        if hasError, expected.error != ending.error {
            return "error code \(ending.error) not \(expected.error)"
        }
        // An exception in compatibility mode saves 32 bits of RSP.
        set(4, expected.registers.4 & 0xFFFF_FFFF)
        guest.cpu[4] = ending.rsp & 0xFFFF_FFFF
        guest.cpu.setArithmeticFlags(ending.flags & RFLAGS.arithmetic)
        var mask = ending.vector == 3 ? undefinedFlags(after: instruction) : 0
        if instruction.mnemonic == .div || instruction.mnemonic == .idiv { mask = 0x8D5 }
        if (expected.rflags ^ ending.flags) & RFLAGS.df != 0 { return "DF differs" }
        if hasUndefinedResult(instruction) { return nil }
        let text = unsafe StateComparison.difference(
            native, guest.cpu, mask: mask, instruction.mnemonic, latitude: latitude)
        if let text { return text }
        if latitude.memory { return nil }
        return unsafe StateComparison.memoryDifference(guest.data, nativeData, Self.size)
    }
}
