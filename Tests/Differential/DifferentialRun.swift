import CNativeRun
import Core
import Glibc
import TCGDecoder

@testable import TCG

/// The fixed addresses of the native run are not free, or its signals cannot be handled.
struct NoNativeRun: Error {}

/// One series of comparisons, on one thread. Owns the fixed addresses, so there is one at a time.
// SAFETY: the native pages stay mapped for the process's life; the state lives with this object.
@safe final class DifferentialRun {
    private let tier: TCGOptions.Tier
    private let guest: UserModeGuest
    private let native = UnsafeMutablePointer<native_state>.allocate(capacity: 1)
    private let nativeData: UnsafeMutableRawPointer
    private let nativeCode: UnsafeMutableRawPointer
    private let pristine: UnsafeMutableRawPointer
    private var generator: InstructionGenerator
    private var random: SeededRandom
    private(set) var compared = 0
    /// The first difference of each mnemonic.
    private(set) var differences: [String: String] = [:]

    private static let pages: (data: UInt, code: UInt)? = {
        let data = unsafe native_map(UserModeGuest.dataBase, UserModeGuest.dataSize, 0)
        let code = unsafe native_map(UserModeGuest.codeBase, UserModeGuest.codeSize, 1)
        guard let data = unsafe data, let code = unsafe code else { return nil }
        for base in UserModeGuest.otherCodeBases {
            guard unsafe native_map_again(code, UserModeGuest.codeSize, base) == 0 else {
                return nil
            }
        }
        return (UInt(bitPattern: data), UInt(bitPattern: code))
    }()

    init(seed: UInt64, tier: TCGOptions.Tier = .interpreter, runs: Int = 1) throws {
        guard native_prepare() == 0, native_limit() == 0, let pages = Self.pages,
            let data = unsafe UnsafeMutableRawPointer(bitPattern: pages.data),
            let code = unsafe UnsafeMutableRawPointer(bitPattern: pages.code)
        else { throw NoNativeRun() }
        unsafe nativeData = data
        unsafe nativeCode = code
        guest = try UserModeGuest(tier: tier)
        self.tier = tier
        // Everything is translated at once, or before it runs for the last time.
        if tier == .translator { guest.cpu.fields.translationThreshold = Int32(runs - 1) }
        generator = InstructionGenerator(seed: seed)
        random = SeededRandom(seed: seed &* 77)
        let size = Int(UserModeGuest.dataSize)
        unsafe pristine = .allocate(byteCount: size, alignment: 16)
        for offset in stride(from: 0, to: size, by: 8) {
            let word = StateComparison.value(&random)
            unsafe pristine.storeBytes(of: word, toByteOffset: offset, as: UInt64.self)
        }
        unsafe nativeData.copyMemory(from: pristine, byteCount: size)
        unsafe guest.data.copyMemory(from: pristine, byteCount: size)
        unsafe memset(nativeCode, 0xCC, Int(UserModeGuest.codeSize))
        unsafe memset(guest.code, 0xCC, Int(UserModeGuest.codeSize))
    }

    deinit {
        native_lift_limit()
        unsafe native.deallocate()
        unsafe pristine.deallocate()
    }

    func compare(_ wanted: InstructionClass, count: Int) {
        while compared < count {
            let (instruction, bytes) = generator.next(wanted)
            unsafe native.pointee = native_state()
            guest.enterUserMode()
            unsafe StateComparison.randomise(native, guest.cpu, &random, isFloating: wanted == .x87)
            guard placeOperands(instruction) else { continue }
            compared += 1
            run(instruction, bytes)
        }
    }

    // MARK: Operands

    private func set(_ register: UInt8, _ value: UInt64) {
        guest.cpu[register] = value
        unsafe withUnsafeMutableBytes(of: &native.pointee.registers) { registers in
            unsafe registers.storeBytes(
                of: value, toByteOffset: Int(register) * 8, as: UInt64.self)
        }
    }

    /// An address in the data pages, now and then one that reaches past them.
    private func target() -> UInt64 {
        let word = random.next()
        let size = UserModeGuest.dataSize
        if word & 31 == 0 { return UserModeGuest.dataBase + size - word >> 32 & 31 }
        let offset = 512 + (word >> 8) % (size - 1024)
        return UserModeGuest.dataBase + (word & 0x80 == 0 ? offset & ~15 : offset)
    }

    /// Points the registers that the instruction uses as addresses at the data pages.
    private func placeOperands(_ instruction: Instruction) -> Bool {
        set(4, target() & ~7)
        switch instruction.mnemonic {
        case _ where instruction.isMaskedStore:
            // Whether bytes that are not selected may fault is the processor's choice.
            set(7, UserModeGuest.dataBase + 512 + random.next() & 0x3FF)
            return instruction.addressSize == 8
        case .movs, .cmps, .stos, .lods, .scas:
            set(6, target())
            set(7, target())
            if instruction.prefixes.contains(.rep) || instruction.prefixes.contains(.repne) {
                set(1, random.next() & 31)
            }
            let flags = random.next() & RFLAGS.df
            unsafe native.pointee.rflags |= flags
            unsafe guest.cpu.state.pointee.systemFlags |= flags
            return instruction.addressSize == 8
        case .xlat:
            set(3, target() - 128)
            return instruction.addressSize == 8
        case .leave: set(5, target() & ~7)
        case .bt, .bts, .btr, .btc: limitBitOffset(instruction)
        case .ret:
            let place = guest.cpu[4] - UserModeGuest.dataBase
            guard place + 8 <= UserModeGuest.dataSize else { break }
            let address = UserModeGuest.codeBase + 64 + random.next() & 0x3FF
            unsafe nativeData.storeBytes(
                of: address, toByteOffset: Int(place), as: UInt64.self)
            unsafe guest.data.storeBytes(
                of: address, toByteOffset: Int(place), as: UInt64.self)
        default: break
        }
        return placeMemoryOperand(instruction)
    }

    private func limitBitOffset(_ instruction: Instruction) {
        let source = instruction.operands[1]
        guard source.kind == .general else { return }
        let offset = UInt64(bitPattern: Int64(random.next() & 0xFFF) - 0x800)
        set(source.register, offset)
    }

    private func placeMemoryOperand(_ instruction: Instruction) -> Bool {
        let memory = instruction.memory
        var hasMemory = false
        for index in 0..<Int(instruction.operandCount)
        where instruction.operands[index].kind == .memory { hasMemory = true }
        guard hasMemory, instruction.mnemonic != .lea else { return true }
        // moffs and absolute addresses cannot be placed.
        guard memory.base < 16, memory.base != memory.index, instruction.addressSize == 8
        else { return memory.base == MemoryOperand.instructionPointer }
        if instruction.mnemonic == .push || instruction.mnemonic == .pop, memory.base == 4 {
            return true
        }
        var rest = UInt64(bitPattern: memory.displacement)
        if memory.index < 16 {
            if memory.hasVectorIndex {
                placeIndices(instruction)
                set(memory.base, target() &- rest)
                return true
            }
            if memory.index != 4 { set(memory.index, random.next() & 0xFF) }
            rest = rest &+ guest.cpu[memory.index] &* UInt64(memory.scale)
        }
        set(memory.base, target() &- rest)
        return true
    }

    /// A gather's indices: small numbers, now and then one that leads out of the data pages.
    private func placeIndices(_ instruction: Instruction) {
        let isWide = instruction.opcode & 1 != 0
        let number = instruction.memory.index
        var words = SIMD4<UInt64>()
        func index(_ word: UInt64) -> UInt64 {
            word & 63 == 0 ? word >> 40 & 0x7FFF : word >> 20 & 0x3F
        }
        for place in 0..<4 {
            let word = random.next()
            words[place] = isWide ? index(word) : index(word) | index(word << 3) << 32
        }
        guest.cpu.setYMM(number, words)
        unsafe withUnsafeMutableBytes(of: &native.pointee.fx) { image in
            for word in 0..<2 {
                unsafe image.storeBytes(
                    of: words[word], toByteOffset: 160 + Int(number) * 16 + 8 * word,
                    as: UInt64.self)
            }
        }
        unsafe withUnsafeMutableBytes(of: &native.pointee.upper) { upper in
            for word in 0..<2 {
                unsafe upper.storeBytes(
                    of: words[2 + word], toByteOffset: Int(number) * 16 + 8 * word,
                    as: UInt64.self)
            }
        }
    }

    // MARK: Running

    /// Runs sequences of a kind until there are twenty differences.
    func compare(_ kind: SequenceKind, count: Int, seed: UInt64) -> [String] {
        var generator = SequenceGenerator(seed: seed, kind: kind)
        var found: [String] = []
        for _ in 0..<count where found.count < 20 {
            if let text = compare(generator.next(), kind) { found.append(text) }
        }
        return found
    }

    /// Runs a sequence from random registers; the result says what differs.
    func compare(_ sequence: (bytes: [UInt8], undefined: UInt64), _ kind: SequenceKind) -> String? {
        let count = sequence.bytes.count
        // Now and then across the border of two pages.
        let isAcross = kind.hasPlaces && random.next() & 7 == 0
        let offset = isAcross ? 0x1000 - Int(random.next() % UInt64(count)) : 0
        place(sequence.bytes, at: offset)
        defer { restore(count, at: offset) }
        if kind.hasPlaces, tier == .translator {
            guest.cpu.fields.translationThreshold = Int32(random.next() % UInt64(kind.runs))
        }
        for _ in 0..<kind.runs {
            if kind.hasPlaces, kind == .moved || random.next() & 3 == 0 { guest.reloadCR3() }
            let base = kind == .moved ? otherBase() : UserModeGuest.codeBase
            if let text = compareOnce(sequence, kind, at: base + UInt64(offset)) { return text }
            // A loop without an end was not run in the guest.
            if unsafe native.pointee.vector == UInt64(NATIVE_NO_END) { return nil }
        }
        return nil
    }

    private func otherBase() -> UInt64 {
        let bases = UserModeGuest.otherCodeBases
        return bases[Int(random.next() % UInt64(bases.count))]
    }

    private func compareOnce(
        _ sequence: (bytes: [UInt8], undefined: UInt64), _ kind: SequenceKind, at address: UInt64
    ) -> String? {
        let bytes = sequence.bytes
        unsafe native.pointee = native_state()
        guest.enterUserMode(at: address)
        let isFloating = kind == .x87 || kind.hasPlaces && random.next() & 3 == 0
        unsafe StateComparison.randomise(native, guest.cpu, &random, isFloating: isFloating)
        maskExceptions()
        for pointer in SequenceGenerator.pointers { set(pointer, target()) }
        // Runs of PUSHes and POPs cross the border of the two pages, or leave them.
        let middle = UserModeGuest.dataBase + 0xFF0 + (random.next() & 0x38)
        set(4, kind == .stack && random.next() & 1 == 0 ? middle : target() & ~7)
        unsafe native.pointee.rip = address
        unsafe native_run(native)
        if unsafe native.pointee.vector == UInt64(NATIVE_NO_END) { return nil }
        // Both tiers together come to the end of a block.
        let isSliced = kind.hasPlaces && random.next() & 3 == 0 && tier != .both
        let ending = isSliced ? guest.run(slice: Int64(1 + random.next() & 31)) : guest.run()
        guard let ending else { return "\(hex(bytes)): \(reasonForNoEnd)" }
        // Flags that nothing reads are lost where an instruction faults.
        let mask = ending.vector == 3 ? sequence.undefined : RFLAGS.arithmetic
        return difference(ending, mask: mask, .dpps).map { "\(hex(bytes)): \($0)" }
    }

    /// All of SSE's.
    private func maskExceptions() {
        guest.cpu.mxcsr |= MXCSR.masks
        unsafe withUnsafeMutableBytes(of: &native.pointee.fx) { image in
            unsafe image.storeBytes(
                of: guest.cpu.mxcsr, toByteOffset: FXImage.mxcsr, as: UInt32.self)
        }
    }

    private func place(_ bytes: [UInt8], at offset: Int = 0) {
        // LOCK has an effect where there are other CPUs.
        guest.cpu.fields.isOnlyCPU = random.next() & 1 == 0
        unsafe (nativeCode + offset).copyMemory(from: bytes, byteCount: bytes.count)
        unsafe (guest.code + offset).copyMemory(from: bytes, byteCount: bytes.count)
        guest.cpu.invalidateCode(
            physical: UserModeGuest.codeBase + UInt64(offset), count: bytes.count + 1)
        unsafe native.pointee.rip = UserModeGuest.codeBase
    }

    private func run(_ instruction: Instruction, _ bytes: [UInt8]) {
        place(bytes)
        unsafe native_run(native)
        let ending = guest.run()
        if let text = difference(instruction, ending) {
            let name =
                instruction.mnemonic == .vex
                ? "vex \(instruction.map) \(String(instruction.opcode, radix: 16))"
                : "\(instruction.mnemonic)"
            if differences[name] == nil { differences[name] = "\(hex(bytes)): \(text)" }
            if differences.count > 60 { compared = .max }
        }
        restore(bytes.count)
    }

    /// Both tiers do not agree, or it is a loop.
    private var reasonForNoEnd: String { guest.vcpu.lockstep?.report ?? "did not end" }

    private func hex(_ bytes: [UInt8]) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
    }

    private func difference(
        _ instruction: Instruction, _ ending: UserModeGuest.Ending?
    ) -> String? {
        guard let ending else { return reasonForNoEnd }
        let expected = unsafe native.pointee
        // A call to a non-canonical target with a stack that faults: which of the two faults comes
        // is the processor's choice.
        if instruction.mnemonic == .call, expected.vector == 14, ending.vector == 13 { return nil }
        var mask = ending.vector == 3 ? undefinedFlags(after: instruction) : 0
        if instruction.mnemonic == .div || instruction.mnemonic == .idiv { mask = 0x8D5 }
        return difference(
            ending, mask: mask, instruction.isDotProduct ? .dpps : instruction.mnemonic,
            comparesResult: !hasUndefinedResult(instruction))
    }

    private func difference(
        _ ending: UserModeGuest.Ending, mask: UInt64, _ mnemonic: Mnemonic,
        comparesResult: Bool = true
    ) -> String? {
        let expected = unsafe native.pointee
        if expected.vector != ending.vector || expected.rip != ending.rip {
            return "exception \(ending.vector) at \(String(ending.rip, radix: 16)), not "
                + "\(expected.vector) at \(String(expected.rip, radix: 16))"
        }
        if ending.vector == 14 {
            // The kernel alters the error code for its own addresses.
            let isUser = expected.cr2 < 1 << 47 && expected.cr2 >= UserModeGuest.lowSize
            if isUser, expected.error != ending.error || expected.cr2 != guestCR2 {
                return "page fault \(ending.error) at \(String(guestCR2, radix: 16)), not "
                    + "\(expected.error) at \(String(expected.cr2, radix: 16))"
            }
        }
        // The frame has the guest's RSP and flags.
        guest.cpu[4] = ending.rsp
        guest.cpu.setArithmeticFlags(ending.flags & RFLAGS.arithmetic)
        if (expected.rflags ^ ending.flags) & RFLAGS.df != 0 { return "DF differs" }
        guard comparesResult else { return nil }
        if let text = unsafe StateComparison.difference(native, guest.cpu, mask: mask, mnemonic) {
            return text
        }
        let size = Int(UserModeGuest.dataSize)
        if unsafe memcmp(nativeData, guest.data, size) != 0 {
            for offset in 0..<size {
                let own = unsafe guest.data.load(fromByteOffset: offset, as: UInt8.self)
                let other = unsafe nativeData.load(fromByteOffset: offset, as: UInt8.self)
                if own != other { return "memory at \(offset): \(own) not \(other)" }
            }
        }
        return nil
    }

    private var guestCR2: UInt64 { unsafe guest.cpu.state.pointee.cr2 }

    private func restore(_ length: Int, at offset: Int = 0) {
        unsafe memset(nativeCode + offset, 0xCC, length + 1)
        unsafe memset(guest.code + offset, 0xCC, length + 1)
        // A wild jump may come back here in the next sequence.
        guest.cpu.invalidateCode(
            physical: UserModeGuest.codeBase + UInt64(offset), count: length + 1)
        let size = Int(UserModeGuest.dataSize)
        if unsafe memcmp(nativeData, pristine, size) != 0 {
            unsafe nativeData.copyMemory(from: pristine, byteCount: size)
        }
        if unsafe memcmp(guest.data, pristine, size) != 0 {
            unsafe guest.data.copyMemory(from: pristine, byteCount: size)
        }
    }
}

extension Instruction {
    private func isVEX(_ map: UInt8, _ opcodes: ClosedRange<UInt8>) -> Bool {
        encoding == .vex && self.map == map && opcodes.contains(opcode)
    }

    /// VDPPS and VDPPD.
    fileprivate var isDotProduct: Bool { mnemonic == .dppd || isVEX(3, 0x40...0x41) }

    /// To [RDI].
    var isMaskedStore: Bool {
        mnemonic == .maskmovq || mnemonic == .maskmovdqu || isVEX(1, 0xF7...0xF7)
    }
}
