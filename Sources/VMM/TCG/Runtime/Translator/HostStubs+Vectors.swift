// The guest's vector and x87 registers, into the host's and back. Flags are of no interest here, and
// general registers have been saved, where the registers are.
extension HostStubs {
    /// - Returns: the jump that is taken if the vector registers are not the guest's.
    static func whenVectors(_ code: inout HostAssembler) -> Int {
        compareVectors(&code, with: 0)
        return code.jump(if: 4)
    }

    /// cmp [vectors], value
    private static func compareVectors(_ code: inout HostAssembler, with value: UInt8) {
        code.memory(0x83, size: 4, reg: 7, HostFrame.slot(HostFrame.vectors))
        code.byte(value)
    }

    static func setVectors(_ code: inout HostAssembler, to value: UInt8) {
        code.memory(0xC7, size: 4, reg: 0, HostFrame.slot(HostFrame.vectors))
        code.word(Int32(value))
    }

    /// Puts into the image what is in the host's registers. Takes RAX, RCX and RSI.
    static func saveVectors(_ code: inout HostAssembler) {
        compareVectors(&code, with: HostFrame.Vectors.x87)
        let isAll = code.jump(if: 4)
        storeSSE(&code)
        let end = code.jump()
        code.land(isAll)
        // FXSAVE would show the guest where the host's code is.
        let pointers = [
            (HostRegister.rax, FXImage.opcode), (HostRegister.rcx, FXImage.instructionPointer),
            (HostRegister.rsi, FXImage.dataPointer),
        ]
        for (register, offset) in pointers { code.load(register, HostFrame.image(offset)) }
        code.memory(0x0FAE, size: 8, reg: 0, HostFrame.image(0))  // fxsave64
        for (register, offset) in pointers {
            let size: UInt8 = offset == FXImage.opcode ? 2 : 8
            code.store(HostFrame.image(offset), register, size: size)
        }
        code.bytes(0xDB, 0xE3)  // fninit
        code.land(end)
        // ldmxcsr
        code.memory(0x0FAE, size: 4, reg: 2, HostFrame.slot(HostFrame.hostMXCSR))
    }

    /// Brings again what the host's registers held.
    static func restoreVectors(_ code: inout HostAssembler) {
        compareVectors(&code, with: HostFrame.Vectors.x87)
        let isAll = code.jump(if: 4)
        restoreSSE(&code)
        let end = code.jump()
        code.land(isAll)
        code.memory(0x0FAE, size: 8, reg: 1, HostFrame.image(0))  // fxrstor64
        code.land(end)
    }

    static func restoreSSE(_ code: inout HostAssembler) {
        code.memory(0x0FAE, size: 4, reg: 2, HostFrame.mxcsr)  // ldmxcsr
        for number in 0..<UInt8(16) {
            code.memory(0x0F28, size: 4, reg: number, HostFrame.vector(number))  // movaps
        }
    }

    private static func storeSSE(_ code: inout HostAssembler) {
        code.memory(0x0FAE, size: 4, reg: 3, HostFrame.mxcsr)  // stmxcsr
        for number in 0..<UInt8(16) {
            code.memory(0x0F29, size: 4, reg: number, HostFrame.vector(number))
        }
    }

    /// The stub `loadX87`.
    static func bringX87(_ code: inout HostAssembler) {
        let (first, second) = (HostRegister.first, HostRegister.second)
        code.bytes(0x41, 0x5A)  // pop r10
        code.store(HostFrame.slot(HostFrame.resume), second)
        code.load(first, HostFrame.mxcsr, size: 4)
        code.registers(0xF7, size: 4, reg: 2, rm: first)  // not r9d
        code.registers(0x81, size: 4, reg: 4, rm: first)  // and r9d, masks
        code.word(Int32(MXCSR.masks))
        code.load(second, HostFrame.image(FXImage.controlWord), size: 4)
        code.registers(0xF7, size: 4, reg: 2, rm: second)
        code.registers(0x81, size: 4, reg: 4, rm: second)
        code.word(Int32(X87Status.exceptions))
        code.registers(0x0B, size: 4, reg: first, rm: second)  // or r9d, r10d
        let isUnmasked = code.jump(if: 5)
        let noVectors = whenVectors(&code)
        storeSSE(&code)
        code.land(noVectors)
        code.memory(0x0FAE, size: 8, reg: 1, HostFrame.image(0))
        setVectors(&code, to: HostFrame.Vectors.x87)
        code.land(isUnmasked)
        code.memory(0xFF, size: 4, reg: 4, HostFrame.slot(HostFrame.resume))  // jmp
    }
}
