import CNativeRun
import Core
import TCGDecoder

@testable import TCG

/// What differs after a run.
extension DifferentialRun {
    func difference(
        _ instruction: Instruction, _ ending: UserModeGuest.Ending?
    ) -> String? {
        guard let ending else { return reasonForNoEnd }
        var mask = ending.vector == 3 ? undefinedFlags(after: instruction) : 0
        if instruction.mnemonic == .div || instruction.mnemonic == .idiv { mask = 0x8D5 }
        return difference(
            ending, mask: mask, instruction.isDotProduct ? .dpps : instruction.mnemonic,
            comparesResult: !hasUndefinedResult(instruction))
    }

    func difference(
        _ ending: UserModeGuest.Ending, mask: UInt64, _ mnemonic: Mnemonic,
        comparesResult: Bool = true
    ) -> String? {
        let expected = unsafe native.pointee
        let latitude = latitude(of: ending)
        isApart = latitude.memory
        if expected.vector != ending.vector || expected.rip != ending.rip {
            if latitude.other {
                isApart = true
                return nil
            }
            return "exception \(ending.vector) at \(String(ending.rip, radix: 16)), not "
                + "\(expected.vector) at \(String(expected.rip, radix: 16))"
        }
        if ending.vector == 14 {
            // The kernel alters the error code for its own addresses, of which it counts the page below
            // the hole as one.
            let isUser = expected.cr2 < 1 << 47 - 4096 && expected.cr2 >= UserModeGuest.lowSize
            if isUser,
                expected.error != ending.error
                    || (expected.cr2 ^ guestCR2) & latitude.knownAddress != 0
            {
                return "page fault \(ending.error) at \(String(guestCR2, radix: 16)), not "
                    + "\(expected.error) at \(String(expected.cr2, radix: 16))"
            }
        }
        // The frame has the guest's RSP and flags.
        guest.cpu[4] = ending.rsp
        guest.cpu.setArithmeticFlags(ending.flags & RFLAGS.arithmetic)
        if (expected.rflags ^ ending.flags) & RFLAGS.df != 0 { return "DF differs" }
        guard comparesResult else { return nil }
        if let text = unsafe StateComparison.difference(
            native, guest.cpu, mask: mask, mnemonic, latitude: latitude)
        {
            return text
        }
        if latitude.memory { return nil }
        return unsafe StateComparison.memoryDifference(
            guest.data, nativeData, Int(UserModeGuest.dataSize))
    }

    /// What of the exception is the processor's choice.
    private func latitude(of ending: UserModeGuest.Ending) -> FaultLatitude {
        guard FaultLatitude.faults.contains(ending.vector) else { return FaultLatitude() }
        let bases = [UserModeGuest.codeBase] + UserModeGuest.otherCodeBases
        let size = UserModeGuest.codeSize
        guard let base = bases.first(where: { ending.rip &- $0 < size }) else {
            return FaultLatitude()
        }
        let offset = Int(ending.rip - base)
        let code = unsafe [UInt8](
            UnsafeRawBufferPointer(
                start: guest.code + offset, count: min(15, Int(size) - offset)))
        guard case .instruction(let instruction) = Decoder(mode: .bits64).decode(code.span) else {
            return FaultLatitude()
        }
        let controlWord = unsafe guest.cpu.fxImage.load(as: UInt16.self)
        return FaultLatitude(instruction, vector: ending.vector, controlWord: controlWord)
    }

    private var guestCR2: UInt64 { unsafe guest.cpu.state.pointee.cr2 }
}

extension Instruction {
    /// VDPPS and VDPPD.
    fileprivate var isDotProduct: Bool { mnemonic == .dppd || isVEX(3, 0x40...0x41) }
}
