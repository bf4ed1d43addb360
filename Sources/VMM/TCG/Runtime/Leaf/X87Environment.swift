/// What FNSTENV stores, in its four formats (SDM volume 1, figures 8-9 to 8-12).
struct X87Environment {
    var controlWord: UInt16 = 0
    var statusWord: UInt16 = 0
    var tagWord: UInt16 = 0
    var opcode: UInt16 = 0
    var instructionPointer: UInt32 = 0
    var dataPointer: UInt32 = 0

    init() {}

    init(_ bytes: InlineArray<28, UInt8>, is32Bit: Bool, isProtected: Bool) {
        let step = is32Bit ? 4 : 2
        func word(_ index: Int, _ offset: Int = 0) -> UInt16 {
            UInt16(bytes[index * step + offset]) | UInt16(bytes[index * step + offset + 1]) << 8
        }
        controlWord = word(0)
        statusWord = word(1)
        tagWord = word(2)
        instructionPointer = UInt32(word(3))
        dataPointer = UInt32(word(5))
        switch (is32Bit, isProtected) {
        case (true, true):
            instructionPointer |= UInt32(word(3, 2)) << 16
            dataPointer |= UInt32(word(5, 2)) << 16
            opcode = word(4, 2) & 0x7FF
        case (true, false):
            let upper = UInt32(word(4)) | UInt32(word(4, 2)) << 16
            opcode = UInt16(truncatingIfNeeded: upper & 0x7FF)
            instructionPointer |= (upper >> 12) << 16
            dataPointer |= ((UInt32(word(6)) | UInt32(word(6, 2)) << 16) >> 12) << 16
        case (false, true): break
        case (false, false):
            opcode = word(4) & 0x7FF
            instructionPointer |= UInt32(word(4) >> 12) << 16
            dataPointer |= UInt32(word(6) >> 12) << 16
        }
    }

    /// The stored form; 14 bytes of it count where `is32Bit` is false. Selectors are stored as
    /// zero, as current processors do.
    func bytes(is32Bit: Bool, isProtected: Bool) -> InlineArray<28, UInt8> {
        var result = InlineArray<28, UInt8>(repeating: 0)
        let step = is32Bit ? 4 : 2
        func put(_ index: Int, _ value: UInt32, upper: UInt32 = 0) {
            let whole = is32Bit ? value | upper : value
            for byte in 0..<step {
                result[index * step + byte] = UInt8(truncatingIfNeeded: whole >> UInt32(8 * byte))
            }
        }
        put(0, UInt32(controlWord), upper: 0xFFFF_0000)
        put(1, UInt32(statusWord), upper: 0xFFFF_0000)
        put(2, UInt32(tagWord), upper: 0xFFFF_0000)
        if isProtected {
            put(3, instructionPointer)
            put(4, 0, upper: UInt32(opcode) << 16)
            put(5, dataPointer)
            put(6, 0, upper: 0xFFFF_0000)
        } else {
            put(3, instructionPointer & 0xFFFF)
            put(4, (instructionPointer >> 16) << 12 | UInt32(opcode))
            put(5, dataPointer & 0xFFFF)
            put(6, (dataPointer >> 16) << 12)
        }
        return result
    }
}
