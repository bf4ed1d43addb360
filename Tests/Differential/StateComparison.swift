import CNativeRun
import Glibc
import TCGDecoder

@testable import TCG

/// What the native CPU and the guest's have in common: the same random registers before a run, and
/// a comparison after it.
enum StateComparison {
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

    /// Gives both CPUs a value in a general register.
    static func set(
        _ register: UInt8, _ value: UInt64, _ native: UnsafeMutablePointer<native_state>, _ cpu: CPU
    ) {
        cpu[register] = value
        unsafe withUnsafeMutableBytes(of: &native.pointee.registers) { registers in
            unsafe registers.storeBytes(
                of: value, toByteOffset: Int(register) * 8, as: UInt64.self)
        }
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
        _ mnemonic: Mnemonic, latitude: FaultLatitude = FaultLatitude()
    ) -> String? {
        let mask = latitude.flags ? RFLAGS.arithmetic : mask
        if let text = unsafe registerDifference(native, cpu) ?? flagDifference(native, cpu, mask) {
            return text
        }
        if latitude.vectors { return nil }
        let mxcsr: UInt64 = unsafe latitude.mxcsr ? 0x3F : UInt64(unknownMXCSR(native, mnemonic))
        return unsafe upperDifference(native, cpu)
            ?? imageDifference(native, cpu, unknownMXCSR: mxcsr, hasTags: !latitude.tags)
    }

    /// The first byte in which the two memories differ, in words.
    static func memoryDifference(
        _ own: UnsafeRawPointer, _ native: UnsafeRawPointer, _ size: Int
    ) -> String? {
        if unsafe memcmp(own, native, size) == 0 { return nil }
        for offset in 0..<size {
            let (value, expected) = unsafe (
                own.load(fromByteOffset: offset, as: UInt8.self),
                native.load(fromByteOffset: offset, as: UInt8.self)
            )
            if value != expected { return "memory at \(offset): \(value) not \(expected)" }
        }
        return nil
    }

    private static func registerDifference(
        _ native: UnsafeMutablePointer<native_state>, _ cpu: CPU
    ) -> String? {
        unsafe withUnsafeBytes(of: &native.pointee.registers) { registers in
            for index in 0..<16 {
                let expected = unsafe registers.load(fromByteOffset: index * 8, as: UInt64.self)
                let own = cpu[UInt8(truncatingIfNeeded: index)]
                if expected != own {
                    return "r\(index) \(String(own, radix: 16)) not "
                        + String(expected, radix: 16)
                }
            }
            return nil
        }
    }

    private static func flagDifference(
        _ native: UnsafeMutablePointer<native_state>, _ cpu: CPU, _ mask: UInt64
    ) -> String? {
        let flags = unsafe native.pointee.rflags & RFLAGS.arithmetic & ~mask
        let own = cpu.arithmeticFlags & ~mask
        if flags == own { return nil }
        return "flags \(String(own, radix: 16)) not \(String(flags, radix: 16))"
    }

    private static func upperDifference(
        _ native: UnsafeMutablePointer<native_state>, _ cpu: CPU
    ) -> String? {
        guard unsafe native.pointee.has_upper != 0 else { return nil }
        return unsafe withUnsafeBytes(of: &native.pointee.upper) { upper in
            for number in UInt8(0)..<16 {
                let expected = unsafe upper.loadUnaligned(
                    fromByteOffset: 16 * Int(number), as: SIMD2<UInt64>.self)
                let own = cpu.ymm(number).highHalf
                if own != expected { return "upper half of ymm\(number): \(own) not \(expected)" }
            }
            return nil
        }
    }

    /// What is compared of each word of an FXSAVE image: FOP, FIP and FDP differ, and so do the
    /// reserved bytes of the registers.
    private static let imageMasks: [UInt64] = (0..<52).map { word in
        switch word {
        case 0: 0xFF_FFFF_FFFF
        case 1, 2: 0
        case 3: 0xFFFF_FFFF
        case 4..<20: word & 1 == 0 ? .max : 0xFFFF
        default: .max
        }
    }

    private static func imageDifference(
        _ native: UnsafeMutablePointer<native_state>, _ cpu: CPU, unknownMXCSR: UInt64,
        hasTags: Bool
    ) -> String? {
        unsafe withUnsafeBytes(of: &native.pointee.fx) { image in
            for word in imageMasks.indices {
                var mask = imageMasks[word]
                switch word {
                case 3: mask &= ~unknownMXCSR
                // FSW's top and FTW; the registers stand in the order of the stack.
                case 0 where !hasTags: mask &= ~0xFF_3800_0000
                case 4..<20 where !hasTags: mask = 0
                default: break
                }
                let expected = unsafe image.load(fromByteOffset: word * 8, as: UInt64.self)
                let own = unsafe cpu.fxImage.load(fromByteOffset: word * 8, as: UInt64.self)
                if (expected ^ own) & mask != 0 {
                    return "FXSAVE image at \(word * 8): \(String(own, radix: 16)) not "
                        + String(expected, radix: 16)
                }
            }
            return nil
        }
    }
}
