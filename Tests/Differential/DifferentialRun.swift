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
    let guest: UserModeGuest
    let native = UnsafeMutablePointer<native_state>.allocate(capacity: 1)
    let nativeData: UnsafeMutableRawPointer
    let nativeCode: UnsafeMutableRawPointer
    private let pristine: UnsafeMutableRawPointer
    private var generator: InstructionGenerator
    var random: SeededRandom
    private(set) var compared = 0
    /// The memories may differ: because of what is left to the processor, or only the host ran.
    var isApart = false
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
        generator = InstructionGenerator(seed: seed, hasPrivileged: true)
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
            if isApart { return nil }
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
        isApart = false
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
        // A loop without an end is not run in the guest.
        isApart = unsafe native.pointee.vector == UInt64(NATIVE_NO_END)
        if isApart { return nil }
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
    var reasonForNoEnd: String { guest.vcpu.lockstep?.report ?? "did not end" }

    private func hex(_ bytes: [UInt8]) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
    }

    private func restore(_ length: Int, at offset: Int = 0) {
        // Where the two are apart, it may be in all of the code.
        let place = isApart ? 0 : offset
        let count = isApart ? Int(UserModeGuest.codeSize) : length + 1
        unsafe memset(nativeCode + place, 0xCC, count)
        unsafe memset(guest.code + place, 0xCC, count)
        // A wild jump may come back here in the next sequence.
        guest.cpu.invalidateCode(
            physical: UserModeGuest.codeBase + UInt64(place), count: count)
        let size = Int(UserModeGuest.dataSize)
        if unsafe memcmp(nativeData, pristine, size) != 0 {
            unsafe nativeData.copyMemory(from: pristine, byteCount: size)
        }
        if unsafe memcmp(guest.data, pristine, size) != 0 {
            unsafe guest.data.copyMemory(from: pristine, byteCount: size)
        }
    }
}
