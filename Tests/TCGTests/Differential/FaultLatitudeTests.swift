import TCGDecoder
import Testing

@testable import Differential
@testable import TCG

/// Where the comparison with the host's CPU looks away.
@Suite("What a processor may choose where it faults")
struct FaultLatitudeTests {
    private func latitude(
        _ bytes: [UInt8], isIntel: Bool, vector: UInt64 = 14, controlWord: UInt16 = 0x37F
    ) throws -> FaultLatitude {
        guard case .instruction(let instruction) = Decoder(mode: .bits64).decode(bytes.span) else {
            throw Fault.invalidOpcode
        }
        return FaultLatitude(
            instruction, vector: vector, controlWord: controlWord, isIntel: isIntel)
    }

    @Test(
        "AMD's processors are compared in full",
        arguments: [
            [0xE8, 0, 0, 0, 0], [0xA6], [0xC8, 0, 0, 0], [0xDB, 0x3F], [0xDD, 0x1F],  // call, cmps...
            [0xC4, 0xE2, 0x71, 0x90, 0x04, 0x17], [0xC4, 0xE2, 0x71, 0x2E, 0x07],  // gather, maskmov
            [0xC4, 0xE3, 0x79, 0x1D, 0x07, 0x00], [0x0F, 0xEF, 0x07],  // vcvtps2ph, pxor mm0
        ] as [[UInt8]], [13, 14] as [UInt64])
    func strict(bytes: [UInt8], vector: UInt64) throws {
        let found = try latitude(bytes, isIntel: false, vector: vector, controlWord: 0)
        #expect(found == FaultLatitude())
        let intel = try latitude(bytes, isIntel: true, vector: 13, controlWord: 0)
        #expect(intel != FaultLatitude())
    }

    @Test("what the host's kernel executes is another matter", arguments: [false, true])
    func prevented(isIntel: Bool) throws {
        #expect(try latitude([0x0F, 0x01, 0x07], isIntel: isIntel, vector: 13).other)  // sgdt
    }

    @Test(
        "of x87's stores only those of ten bytes may have written a part",
        arguments: [
            ([0xDB, 0x3F], true), ([0xDF, 0x37], true),  // fstp tbyte, fbstp
            ([0xDD, 0x1F], false), ([0xD9, 0x17], false), ([0xDF, 0x3F], false),  // fstp, fst, fistp
        ] as [([UInt8], Bool)])
    func stores(bytes: [UInt8], isPartial: Bool) throws {
        let masked = try latitude(bytes, isIntel: true)
        #expect(masked.memory == isPartial)
        #expect(!masked.other)
        #expect(try latitude(bytes, isIntel: true, controlWord: 0x37E).other)
    }
}
