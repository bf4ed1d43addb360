import TCGDecoder

@testable import TCG

/// Pieces of code with all kinds of branches between them.
///
/// They are written from the last to the first, so that it is known how far it is to what lies
/// ahead. Loops end because of a counter, which is a register that nothing else writes.
extension SequenceGenerator {
    mutating func flow() -> [UInt8] {
        let counter = 9 + UInt8(generator.random.next() % 7)
        self.counter = counter
        defer { self.counter = nil }
        var flow = Flow(counter: counter)
        // INT3, and a function behind it.
        flow.prepend(piece() + [0xC3])
        flow.function = flow.code.count
        flow.prepend([0xCC])
        flow.targets = [flow.code.count]
        for _ in 0..<(3 + generator.random.next() % 8) {
            flow.finishPiece(ending(flow))
            flow.prepend(modification(flow))
            flow.prepend(piece())
            if generator.random.next() & 7 == 0 {
                flow.immediates.append(flow.code.count)
                flow.prepend([0x49, 0x83, 0xC0, UInt8(truncatingIfNeeded: generator.random.next())])
            }
            flow.beginPiece()
        }
        let turns = UInt8(1 + generator.random.next() % 12)
        flow.prepend([0x41, 0xB8 | counter & 7, turns, 0, 0, 0])  // mov counter, turns
        return flow.finished()
    }

    /// Instructions that leave no flags undefined.
    private mutating func piece() -> [UInt8] {
        let word = generator.random.next()
        var bytes: [UInt8] = []
        if word & 1 == 0 {
            bytes = accesses(word >> 8 & 3)
        } else {
            for _ in 0..<(word >> 8 & 3) { bytes += instruction(anyClass()) }
        }
        if word & 0xF0 == 0 { bytes += fromRIP(word >> 16) }
        if undefined != 0 {
            bytes += [0x4D, 0x01, 0xC0]  // add r8, r8
            undefined = 0
        }
        return bytes
    }

    private mutating func anyClass() -> InstructionClass {
        switch generator.random.next() & 15 {
        case 0..<10: .integer
        case 10, 11: .vector
        case 12: .x87
        default: InstructionClass.avx.isSupported ? mixed() : .vector
        }
    }

    /// LEA or MOV of something near.
    private func fromRIP(_ word: UInt64) -> [UInt8] {
        let register = freeRegister(word >> 8)
        return [
            0x48 | (register & 8) >> 1, word & 1 == 0 ? 0x8B : 0x8D, 0x05 | (register & 7) << 3,
            UInt8(word >> 16 & 63), 0, 0, 0,
        ]
    }

    /// Now and then MOV of R8B into an immediate that is ahead.
    private mutating func modification(_ flow: Flow) -> [UInt8] {
        let word = generator.random.next()
        guard word & 15 == 0, !flow.immediates.isEmpty else { return [] }
        let target = flow.immediates[Int((word >> 8) % UInt64(flow.immediates.count))]
        return [0x44, 0x88, 0x05] + flow.distance(to: target + 1)
    }

    /// What leads from a piece to another one.
    private mutating func ending(_ flow: Flow) -> Flow.Ending {
        let word = generator.random.next()
        let ahead = flow.targets.suffix(6)
        let target = ahead[ahead.startIndex + Int((word >> 8) % UInt64(ahead.count))]
        let register = freeRegister(word >> 16)
        let base = Self.bases[Int((word >> 32) % UInt64(Self.bases.count))]
        let place = UInt8(truncatingIfNeeded: word >> 40)
        let far = flow.distance(to: target)
        let near = flow.code.count - target
        let isNear = near < 128 && word & 0x80 == 0
        switch word & 15 {
        case 0..<5:
            let condition = UInt8(word >> 24 & 15)
            return Flow.Ending(
                isNear ? [0x70 | condition, UInt8(near)] : [0x0F, 0x80 | condition] + far)
        case 5: return Flow.Ending(isNear ? [0xEB, UInt8(near)] : [0xE9] + far)
        case 6: return Flow.Ending([0xE8] + far)
        case 7: return Flow.Ending([0xE8] + flow.distance(to: flow.function))
        case 8: return through(register, target, flow, [0xFF, 0xE0 | register & 7])
        case 9: return through(register, target, flow, [0xFF, 0xD0 | register & 7])
        case 10: return through(register, target, flow, [0x50 | register & 7], [0xC3])
        case 11:
            let store = memory([0x89], register, base, place)
            let jump = memory([0xFF], 4, base, place)
            return Flow.Ending(
                address(target, flow, register, count: store.count + jump.count)
                    + store + jump)
        case 12..<15:
            // dec counter; jg
            return Flow.Ending(
                [0x41, 0xFF, 0xC8 | flow.counter & 7, 0x0F, 0x8F, 0, 0, 0, 0],
                isBack: true, turns: word >> 16 & 7)
        default: return Flow.Ending([])
        }
    }

    /// LEA of the target, and instructions that use the register.
    private func through(
        _ register: UInt8, _ target: Int, _ flow: Flow, _ use: [UInt8], _ rest: [UInt8] = []
    ) -> Flow.Ending {
        let code = (register >= 8 ? [0x41] : []) + use + rest
        return Flow.Ending(address(target, flow, register, count: code.count) + code)
    }

    /// `lea register, [target]`, with `count` bytes between it and the code ahead.
    private func address(
        _ target: Int, _ flow: Flow, _ register: UInt8, count: Int
    ) -> [UInt8] {
        [0x48 | (register & 8) >> 1, 0x8D, 0x05 | (register & 7) << 3]
            + flow.distance(to: target, behind: count)
    }
}

/// Code that is written from its end to its beginning. Places in it are given by how much lies
/// behind them.
private struct Flow {
    struct Ending {
        var code: [UInt8]
        /// A branch back; its last four bytes are still to be filled in.
        var isBack = false
        /// How many pieces back.
        var turns: UInt64 = 0

        init(_ code: [UInt8], isBack: Bool = false, turns: UInt64 = 0) {
            self.code = code
            self.isBack = isBack
            self.turns = turns
        }
    }

    let counter: UInt8
    var code: [UInt8] = []
    var function = 0
    /// Where branches can go, the nearest last.
    var targets: [Int] = []
    /// Ends of one-byte immediates.
    var immediates: [Int] = []
    /// Beginnings of pieces, the first of them last.
    private var pieces: [Int] = []
    /// Branches back: what lies behind the branch, and the number of the piece.
    private var back: [(place: Int, piece: Int)] = []

    init(counter: UInt8) { self.counter = counter }

    mutating func prepend(_ bytes: [UInt8]) { code.insert(contentsOf: bytes, at: 0) }

    mutating func beginPiece() {
        targets.append(code.count)
        pieces.append(code.count)
    }

    mutating func finishPiece(_ ending: Ending) {
        if ending.isBack { back.append((code.count, pieces.count + Int(ending.turns) / 2)) }
        prepend(ending.code)
        targets.append(code.count)
    }

    /// From the beginning, with `count` bytes before it, to a place.
    func distance(to place: Int, behind count: Int = 0) -> [UInt8] {
        Self.bytes(Int32(count + code.count - place))
    }

    private static func bytes(_ value: Int32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }

    /// With the branches back.
    func finished() -> [UInt8] {
        var result = code
        for (place, number) in back {
            let piece = pieces[min(number, pieces.count - 1)]
            let end = code.count - place
            result.replaceSubrange(end - 4..<end, with: Self.bytes(Int32(place - piece)))
        }
        return result
    }
}
