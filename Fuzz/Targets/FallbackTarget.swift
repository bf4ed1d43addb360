import Accelerator

@testable import TCG

/// Single instructions on states that another provider lends, with images of extended state that
/// the input has made up. What WRMSR leaves behind in the CPU does not matter to what is checked.
struct FallbackTarget: FuzzTarget {
    static let name = "fallback"
    static let about = "single instructions on borrowed states; XSAVE's family stays in its image"

    /// Instructions of XSAVE's family and others that KVM may lack, on images of all forms.
    static let seeds: [[UInt8]] = FuzzWorld.Mode.allCases.indices.flatMap { mode in
        code.flatMap { code in
            headers.map { header in
                FuzzSeed.make { seed in
                    seed.choose(mode, of: FuzzWorld.Mode.allCases.count)
                    seed.putZeroes(2)
                    putRegisters(&seed)
                    seed.putZeroes(2)
                    // All that can be permitted, and all of that in XCR0.
                    seed.putEdge(.max)
                    seed.putEdge(.max)
                    seed.put(false)
                    seed.putEdge(7)
                    seed.choose(0, of: 4)
                    seed.put(0 as UInt32)
                    for word in header { seed.putEdge(word) }
                    seed.choose(0, of: 8)
                    seed.put(false)
                    seed.put(code)
                }
            }
        }
    }

    private static func putRegisters(_ seed: inout FuzzSeed) {
        for register in 0..<16 {
            switch register {
            // The mask of components: all of the low ones.
            case 0:
                seed.put(false)
                seed.put(0xFFFF as UInt16)
            // XCR0's number.
            case 1:
                seed.put(true)
                seed.choose(0, of: 4)
                seed.put(0 as UInt8)
            default:
                seed.put(false)
                seed.put(UInt16(0x100 * register))
            }
        }
    }

    /// XSTATE_BV, XCOMP_BV and what is reserved.
    private static let headers: [[UInt64]] = [[7, 0, 0], [0xE7, 1 << 63 | 0xE7, 0]]
    private static let code: [[UInt8]] = [
        [0x0f, 0xae, 0x2f, 0x0f, 0xae, 0x27],  // xrstor, xsave [rdi]
        [0x0f, 0xae, 0x2f, 0x0f, 0xc7, 0x27],  // xrstor, xsavec
        [0x48, 0x0f, 0xae, 0x2f, 0x48, 0x0f, 0xae, 0x37],  // xrstor64, xsaveopt64
        [0xb0, 7, 0x66, 0xb8, 7, 0, 0x0f, 1, 0xd1, 0x0f, 1, 0xd0],  // xsetbv, xgetbv
        [0x0f, 0xae, 0x0f, 0x0f, 0xae, 0x07],  // fxrstor, fxsave
        [0xf3, 0x0f, 0xb8, 0x07, 0x0f, 0xc7, 0x0f, 0x0f, 0x6f, 0x07, 0xd9, 0xe8],
    ]

    /// The byte at which XSTATE_BV, the list of an image's components, begins.
    private static let list = 512
    private static let limit = 8

    private let world: FuzzWorld
    private let fallback: TCGFallback

    init() throws {
        world = try FuzzWorld(cpuCount: 1)
        fallback = TCGFallback(
            memory: world.machine.memory, surface: FuzzSurface(), cpuCount: 1)
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        try world.enter(input.pick(FuzzWorld.Mode.allCases), &input)
        var state = CPUState()
        lendExtended(&state, &input)
        // The guest's image, where seeds look for it.
        let place = world.vcpu.cpu[7] &+ UInt64(Self.list)
        for word in 0..<3 as Range<UInt64> { world.put(place &+ 8 * word, input.edge()) }
        world.fill(&input)
        let cr4 = state.cr4
        world.vcpu.cpu.give(&state)
        state.cr4 |= cr4
        var hasAdvanced = false
        for _ in 0..<Self.limit {
            let old = state
            let result = fallback.execute(cpu: 0, &state)
            try check(old, state)
            if result == .unsupported { try checkSame(old, state) }
            guard result == .done else { break }
            hasAdvanced = hasAdvanced || (1...15).contains(state.rip &- old.rip)
        }
        try world.machine.checkCanary()
        return hasAdvanced
    }

    /// An image of any size, full of bytes that are easily missed.
    private func lendExtended(_ state: inout CPUState, _ input: inout FuzzInput) {
        state.permittedXCR0 = input.edge() | 3
        state.xcr0 = input.edge() & Self.components(4096, state) | 1
        let size = input.flag() ? Self.list + 64 + input.below(4096) : 4096
        state.extendedImage = (0..<size).map { UInt8(truncatingIfNeeded: 0x5A &+ 31 &* $0) }
        let list = input.edge() & Self.components(size, state)
        for byte in 0..<8 {
            state.extendedImage[Self.list + byte] = UInt8(list >> UInt64(8 * byte) & 0xFF)
        }
        state.cr4 = CR4.osxsave
        if input.rarely(4) { state.cr4 |= CR4.pke }
        state.pkru = input.number()
    }

    private static func components(_ size: Int, _ state: CPUState) -> UInt64 {
        ExtendedStateLayout.host.components(within: size) & state.permittedXCR0 | 3
    }

    // MARK: Invariants

    private func check(_ old: CPUState, _ new: CPUState) throws {
        let size = old.extendedImage.count
        try require(new.extendedImage.count == size, "the image has another size")
        let components = Self.components(size, old)
        var isOpen = [Bool](repeating: false, count: size)
        for byte in Self.list..<Self.list + 8 { isOpen[byte] = true }
        for number in 2..<63 where components >> UInt64(number) & 1 != 0 {
            let component = ExtendedStateLayout.host[number]
            for byte in component.offset..<component.offset + component.size {
                isOpen[byte] = true
            }
        }
        for byte in 0..<size where old.extendedImage[byte] != new.extendedImage[byte] {
            try require(isOpen[byte], "byte \(byte) of the image is no component's")
        }
        for byte in 0..<8 {
            let list = new.extendedImage[Self.list + byte]
            let allowed = UInt8(components >> UInt64(8 * byte) & 0xFF)
            try require(list & ~allowed == 0, "the image lists what it cannot have")
        }
        // KVM would refuse all of these.
        try require(new.xcr0 & ~components == 0 && new.xcr0 & 1 != 0, "XCR0 is \(new.xcr0)")
        try require(
            new.fxImage[3] & 0xFFFF_FFFF & ~UInt64(FXImage.supportedMXCSR)
                & ~(old.fxImage[3] >> 32 & UInt64(FXImage.misalignedSSE)) == 0,
            "MXCSR is \(new.fxImage[3])")
        try require(new.cr4 & ~CR4.borrowable == 0, "CR4 is \(new.cr4)")
        try require(new.rflags & ~RFLAGS.defined & ~2 == 0, "undefined flags are set")
    }

    private func checkSame(_ old: CPUState, _ new: CPUState) throws {
        for number in 0..<16 {
            try require(
                old.registers[number] == new.registers[number], "register \(number) has changed")
        }
        for word in 0..<64 {
            try require(old.fxImage[word] == new.fxImage[word], "the FXSAVE image has changed")
        }
        try require(
            old.rip == new.rip && old.rflags == new.rflags && old.xcr0 == new.xcr0,
            "an instruction that is refused has had effects")
    }
}
