import CNativeRun
import Core
import Glibc
import Testing

@testable import Differential
@testable import TCG

extension HostTests {
    /// XSAVE's family on the host CPU and in the interpreter: the same images and the same states.
    @Suite(
        "Extended state against the host CPU",
        .enabled(if: ExtendedStateRun.isSupported, "the host has no XSAVE with AVX"))
    struct ExtendedStateDifferentialTests {
        @Test("saved and restored images", arguments: ExtendedStateRun.Form.allCases)
        func images(_ form: ExtendedStateRun.Form) throws {
            let run = try ExtendedStateRun(form)
            for _ in 0..<3000 { run.compareOnce() }
            #expect(run.differences.isEmpty, "\(run.differences)")
            #expect(run.ambiguousCount < 100)
            #expect(run.faultCount < 1500)
            if form == .xrstor { #expect(run.faultCount > 100) }
        }
    }
}

/// One instruction again and again, from random states and with random images.
// SAFETY: the native pages stay mapped for the process's life.
@safe final class ExtendedStateRun {
    enum Form: CaseIterable, Sendable {
        case xsave, xsaveopt, xsavec, xrstor, xgetbv

        /// With [RDI] as the operand, but for XGETBV.
        var code: [UInt8] {
            switch self {
            case .xsave: [0x0F, 0xAE, 0x27]
            case .xsaveopt: [0x0F, 0xAE, 0x37]
            case .xsavec: [0x0F, 0xC7, 0x27]
            case .xrstor: [0x0F, 0xAE, 0x2F]
            case .xgetbv: [0x0F, 0x01, 0xD0]
            }
        }
    }

    private enum Place {
        static let native: UInt64 = 0x3300_0000
        static let guest: UInt64 = 0x20_0000
        // Offsets in the native pages.
        static let initial = 0x1000
        static let state = 0x3000
        static let image = 0x5000
        static let final = 0x7000
        static let size = 0x2000
    }

    /// x87, SSE, AVX and AVX-512, as far as the host has them. A test must not change PKRU.
    static let components: UInt64 = {
        let layout = ExtendedStateLayout.host
        return 3 | layout.components(within: 4096) & (ExtendedStateLayout.avx512 | 4)
    }()
    static var isSupported: Bool { components & 4 != 0 }

    /// Mapped once for the process.
    private static let pages = unsafe UInt(bitPattern: native_map(Place.native, 0x9000, 1))

    private let form: Form
    private let native: UnsafeMutableRawPointer
    private let state = UnsafeMutablePointer<native_state>.allocate(capacity: 1)
    private let machine: BareMachine
    private let extended = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 64)
    private var random = SeededRandom(seed: 11)
    private(set) var differences: [String: Int] = [:]
    private(set) var faultCount = 0
    private(set) var ambiguousCount = 0

    init(_ form: Form) throws {
        self.form = form
        try #require(native_prepare() == 0)
        unsafe native = try #require(UnsafeMutableRawPointer(bitPattern: Self.pages))
        machine = try BareMachine.running([])
        machine.cpu.fields.cr4 |= CR4.osxsave
        machine.cpu.fields.xcr0 = Self.components
        machine.cpu.fields.extendedComponents = Self.components & ~3
        unsafe machine.cpu.fields.extendedImage = extended
    }

    deinit {
        unsafe state.deallocate()
        unsafe extended.deallocate()
    }

    func compareOnce() {
        let isWide = form != .xgetbv && random.next() & 1 == 0
        let code = (isWide ? [0x48] : []) + form.code
        let mask = random.next() & 3 == 0 ? UInt64.max : random.next() & 0xFF
        fillImage(at: Place.initial, isCompacted: false, isSound: true)
        if form == .xrstor {
            fillImage(
                at: Place.image, isCompacted: random.next() & 1 == 0,
                isSound: random.next() & 3 != 0)
        } else {
            for offset in stride(from: 0, to: Place.size, by: 8) {
                unsafe native.storeBytes(
                    of: random.next(), toByteOffset: Place.image + offset, as: UInt64.self)
            }
        }
        let image = unsafe [UInt8](
            UnsafeRawBufferPointer(start: native + Place.image, count: Place.size))
        unsafe memset(native + Place.state, 0, Place.size)
        unsafe memset(native + Place.final, 0, Place.size)
        runNatively(code, mask: mask)
        runGuest(code, mask: mask, image)
        compare(code)
    }

    // MARK: Random images

    /// An image with random components. An unsound one has a bit changed that must not be.
    private func fillImage(at place: Int, isCompacted: Bool, isSound: Bool) {
        for offset in stride(from: 0, to: Place.size, by: 8) {
            unsafe native.storeBytes(
                of: random.next(), toByteOffset: place + offset, as: UInt64.self)
        }
        // No pending exception of the x87 unit, and what MXCSR can hold.
        store(place, UInt16(truncatingIfNeeded: random.next()) & 0x1F3F | 0x7F, UInt16.self)
        store(place + 2, UInt16(truncatingIfNeeded: random.next()) & 0x7F00, UInt16.self)
        store(place + 4, UInt16(truncatingIfNeeded: random.next()) & 0xFF, UInt16.self)
        store(place + 6, 0, UInt16.self)
        store(place + 8, 0, UInt64.self)
        store(place + 16, 0, UInt64.self)
        store(place + 24, UInt32(truncatingIfNeeded: random.next()) & 0xFFFF, UInt32.self)
        for register in 0..<8 { store(place + 42 + 16 * register, 0, UInt16.self) }
        for register in 0..<8 { store(place + 44 + 16 * register, 0, UInt32.self) }
        let listed = isCompacted ? random.next() & Self.components : Self.components
        for word in 0..<8 { store(place + 512 + 8 * word, 0, UInt64.self) }
        store(place + 512, random.next() & listed, UInt64.self)
        if isCompacted { store(place + 520, listed | 1 << 63, UInt64.self) }
        if isSound { return }
        switch random.next() & 3 {
        case 0: store(place + 24, 0x8000_1F80, UInt32.self)
        case 1: flip(place + 512 + Int(random.next() % 64))
        default: flip(place + 512 + Int(random.next() % 24))
        }
    }

    private func store<T: FixedWidthInteger & BitwiseCopyable>(
        _ place: Int, _ value: T, _: T.Type
    ) {
        unsafe (native + place).storeBytes(of: value, as: T.self)
    }

    private func flip(_ place: Int) {
        let old = unsafe (native + place).load(as: UInt8.self)
        store(place, old ^ 1 << UInt8(random.next() & 7), UInt8.self)
    }

    // MARK: Both runs

    /// Takes the initial state from R8, shows it at R9, executes the instruction and shows the
    /// final state at R10.
    private func runNatively(_ instruction: [UInt8], mask: UInt64) {
        var code = Self.setMask(Self.components)
        code += [0x49, 0x0F, 0xAE, 0x28, 0x49, 0x0F, 0xAE, 0x21]
        code += form == .xgetbv ? [] : Self.setMask(mask)
        code += instruction
        code += [0x49, 0x89, 0xC3, 0x49, 0x89, 0xD4]  // mov r11, rax; mov r12, rdx
        code += Self.setMask(Self.components) + [0x49, 0x0F, 0xAE, 0x22, 0xCC]
        unsafe native.copyMemory(from: code, byteCount: code.count)
        unsafe state.initialize(to: native_state())
        unsafe state.pointee.rflags = 0x202
        unsafe state.pointee.rip = Place.native
        unsafe withUnsafeMutableBytes(of: &state.pointee.registers) { registers in
            let values: [(Int, UInt64)] = [
                (1, UInt64(random.next() & 1)), (4, Place.native + 0xFF0),
                (7, Place.native + UInt64(Place.image)),
                (8, Place.native + UInt64(Place.initial)), (9, Place.native + UInt64(Place.state)),
                (10, Place.native + UInt64(Place.final)),
            ]
            for (number, value) in values {
                unsafe registers.storeBytes(of: value, toByteOffset: 8 * number, as: UInt64.self)
            }
            machine.cpu[1] = values[0].1
        }
        unsafe native_run(state)
    }

    private static func setMask(_ mask: UInt64) -> [UInt8] {
        let low = (0..<4).map { UInt8(truncatingIfNeeded: mask >> UInt64(8 * $0)) }
        let high = (4..<8).map { UInt8(truncatingIfNeeded: mask >> UInt64(8 * $0)) }
        return [0xB8] + low + [0xBA] + high
    }

    private func runGuest(_ instruction: [UInt8], mask: UInt64, _ image: [UInt8]) {
        let cpu = machine.cpu
        let before = unsafe native + Place.state
        unsafe cpu.fxImage.copyMemory(from: before, byteCount: 512)
        unsafe extended.copyMemory(from: before, byteCount: 4096)
        let header = unsafe before.load(fromByteOffset: 512, as: UInt64.self)
        cpu.fields.hasUpperHalves = header & ExtendedStateLayout.avx != 0 ? 1 : 0
        unsafe cpu.upperHalf(0).copyMemory(from: before + 576, byteCount: 256)
        machine.put(Place.guest, bytes: image)
        cpu[0] = mask & 0xFFFF_FFFF
        cpu[2] = mask >> 32
        cpu[7] = Place.guest
        run(instruction)
    }

    private func run(_ instruction: [UInt8]) {
        let cpu = machine.cpu
        machine.put(BareMachine.code, bytes: instruction + [0xF4])
        cpu.flushCodeLookups()
        cpu[4] = BareMachine.stack - 0x800
        cpu.rip = BareMachine.code
        cpu.fields.isHalted = false
        machine.runUntilHalt()
    }

    // MARK: Comparison

    private func note(_ text: String) { differences["\(text)", default: 0] += 1 }

    private func compare(_ code: [UInt8]) {
        let vector = unsafe state.pointee.vector
        let own = machine.exception?.vector ?? 3
        if vector != own { return note("vector \(own) instead of \(vector)") }
        if vector != 3 {
            faultCount += 1
            return
        }
        let (low, high) = unsafe withUnsafeBytes(of: &state.pointee.registers) {
            unsafe (
                $0.load(fromByteOffset: 88, as: UInt64.self),
                $0.load(fromByteOffset: 96, as: UInt64.self)
            )
        }
        let different = low ^ machine.cpu[0]
        if form == .xgetbv, different != 0,
            isInitial(UInt8(truncatingIfNeeded: different), Place.state)
        {
            ambiguousCount += 1
        } else if different != 0 || high != machine.cpu[2] {
            note("\(String(machine.cpu[0], radix: 16)) instead of \(String(low, radix: 16))")
        }
        compareBytes("image", Place.image, Place.guest)
        // The state, as both see it.
        machine.put(Place.guest, bytes: [UInt8](repeating: 0, count: Place.size))
        machine.cpu[0] = Self.components
        machine.cpu[2] = 0
        machine.cpu[7] = Place.guest
        run([0x48, 0x0F, 0xAE, 0x27])
        compareBytes("state", Place.final, Place.guest)
    }

    /// Whether components are in their initial state in the image at `place`, or were before an
    /// image was written. The host may take them for used all the same, for example after an
    /// interrupt between two instructions.
    private func isInitial(_ components: UInt8, _ place: Int) -> Bool {
        let image = unsafe native + (place == Place.image ? Place.state : place)
        func isZero(_ offset: Int, _ size: Int) -> Bool {
            unsafe UnsafeRawBufferPointer(start: image + offset, count: size).allSatisfy { $0 == 0 }
        }
        return (0..<8).filter { components >> UInt8($0) & 1 != 0 }.allSatisfy { number in
            switch number {
            case 0: unsafe image.load(as: UInt64.self) == 0x37F && isZero(8, 16) && isZero(32, 128)
            case 1: isZero(160, 256)
            default:
                isZero(
                    ExtendedStateLayout.host[number].offset, ExtendedStateLayout.host[number].size)
            }
        }
    }

    private func compareBytes(_ what: String, _ place: Int, _ guest: UInt64) {
        let expected = unsafe UnsafeRawBufferPointer(start: native + place, count: Place.size)
        guard let own = try? machine.memory.readBytes(GuestAddress(guest), count: Place.size)
        else { return note("no memory") }
        let different = unsafe own[512] ^ expected[512]
        if different != 0, isInitial(different, place) {
            ambiguousCount += 1
            return
        }
        // What MXCSR can hold: ours has no bit 17.
        for offset in 0..<Place.size where !(28..<32).contains(offset) {
            if unsafe own[offset] != expected[offset] {
                return note("\(what) at \(offset)")
            }
        }
    }
}
