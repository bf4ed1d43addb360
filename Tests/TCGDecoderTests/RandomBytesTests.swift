import Glibc
import TCGDecoder
import Testing

/// The decoder and Zydis agree on random bytes: which are instructions, how long they are and
/// what their operands are.
@Suite("Decoder: random bytes")
struct RandomBytesTests {
    /// Sequences for each mode and shape; `APUS_TEST_DECODER_COUNT` asks for a longer run.
    static var count: Int {
        // SAFETY: nothing in the test process changes the environment.
        guard let value = unsafe getenv("APUS_TEST_DECODER_COUNT") else { return 150_000 }
        return unsafe Int(String(cString: value)) ?? 150_000
    }

    @Test(
        "random bytes", arguments: [CodeMode.bits16, .bits32, .bits64],
        RandomInstructions.Shape.allCases)
    func randomBytes(mode: CodeMode, shape: RandomInstructions.Shape) {
        var generator = RandomInstructions(shape: shape, seed: 0x5EED)
        let oracle = ZydisOracle(mode: mode)
        var differences: [String] = []
        for _ in 0..<Self.count {
            generator.advance()
            var length = 0
            if let difference = oracle.difference(generator.bytes.span, length: &length),
                differences.count < 20
            {
                differences.append("\(generator.hexadecimal): \(difference)")
            }
        }
        #expect(differences.isEmpty)
    }
}

/// Makes byte sequences that look enough like instructions to reach all opcode maps.
struct RandomInstructions {
    enum Shape: CaseIterable {
        /// Fifteen random bytes.
        case any
        /// Prefixes, an escape and random bytes.
        case legacy
        case vex
        case evex
    }

    private let shape: Shape
    private var state: UInt64
    private(set) var bytes = [UInt8](repeating: 0, count: 15)

    init(shape: Shape, seed: UInt64) {
        self.shape = shape
        state = seed
    }

    var hexadecimal: String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// Makes the next sequence.
    mutating func advance() {
        for index in 0..<15 where index & 7 == 0 {
            var word = next()
            for offset in index..<min(index + 8, 15) {
                bytes[offset] = UInt8(truncatingIfNeeded: word)
                word >>= 8
            }
        }
        switch shape {
        case .any: break
        case .legacy: shapeLegacy()
        case .vex: shapeVEX()
        case .evex: shapeEVEX()
        }
    }

    /// SplitMix64.
    private mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }

    private mutating func pick(_ choices: [UInt8]) -> UInt8 {
        choices[Int(next() % UInt64(choices.count))]
    }

    private mutating func shapeLegacy() {
        var position = 0
        for _ in 0..<pick([0, 0, 0, 1, 1, 1, 2, 3]) {
            bytes[position] = pick([
                0x66, 0x66, 0xF2, 0xF2, 0xF3, 0xF3, 0xF0, 0x67, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65,
                0x40, 0x41, 0x42, 0x44, 0x48, 0x4F,
            ])
            position += 1
        }
        switch pick([0, 1, 1, 1, 2, 2, 3]) {
        case 0: break
        case 1: bytes[position] = 0x0F
        case 2: (bytes[position], bytes[position + 1]) = (0x0F, 0x38)
        default: (bytes[position], bytes[position + 1]) = (0x0F, 0x3A)
        }
    }

    private mutating func shapeVEX() {
        let choice = next()
        if choice & 1 == 0 {
            bytes[0] = 0xC5
            // Most instructions want vvvv to be unused.
            if choice & 2 == 0 { bytes[1] |= 0x78 }
        } else {
            bytes[0] = 0xC4
            bytes[1] = bytes[1] & 0xE0 | pick([1, 2, 3])
            if choice & 2 == 0 { bytes[2] |= 0x78 }
        }
        // Outside 64-bit mode all else is LES and LDS.
        if choice & 4 == 0 { bytes[1] |= 0xC0 }
    }

    private mutating func shapeEVEX() {
        let choice = next()
        bytes[0] = 0x62
        bytes[1] = bytes[1] & 0xF0 | pick([1, 1, 2, 2, 3, 3, 5, 6])
        bytes[2] |= 4
        if choice & 1 == 0 { bytes[1] |= 0xF0 }
        if choice & 2 == 0 { (bytes[2], bytes[3]) = (bytes[2] | 0x78, bytes[3] | 8) }
        // Without zeroing, broadcast and mask.
        if choice & 4 == 0 { bytes[3] &= 0x7F }
        if choice & 8 == 0 { bytes[3] &= 0xEF }
        if choice & 16 == 0 { bytes[3] &= 0xF8 }
    }
}
