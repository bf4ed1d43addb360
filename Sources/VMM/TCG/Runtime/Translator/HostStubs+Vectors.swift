// The guest's vector and x87 registers, into the host's and back. Flags are of no interest here, and
// general registers have been saved, where the registers are.
extension HostStubs {
    /// - Returns: the jump that is taken if the vector registers are not the guest's.
    static func whenVectors(_ code: inout HostAssembler) -> Int {
        code.memory(0x83, size: 4, reg: 7, HostFrame.slot(HostFrame.vectors))  // cmp [vectors], 0
        code.byte(0)
        return code.jump(if: 4)
    }

    /// test [vectors], one of `HostFrame.Vectors`
    static func testVectors(_ code: inout HostAssembler, _ vectors: UInt16) {
        let isUpper = vectors > 0xFF
        code.memory(
            0xF6, size: 1, reg: 0,
            HostFrame.slot(isUpper ? HostFrame.upperVectors : HostFrame.vectors))
        code.byte(UInt8(truncatingIfNeeded: isUpper ? vectors >> 8 : vectors))
    }

    static func setVectors(_ code: inout HostAssembler, to value: UInt16) {
        code.memory(0xC7, size: 4, reg: 0, HostFrame.slot(HostFrame.vectors))
        code.word(Int32(value))
    }

    private static func addVectors(_ code: inout HostAssembler, _ value: UInt16) {
        code.memory(0x81, size: 4, reg: 1, HostFrame.slot(HostFrame.vectors))  // or [vectors], ...
        code.word(Int32(value))
    }

    /// Puts into the image what is in the host's registers. Takes RAX, RCX and RSI.
    static func saveVectors(_ code: inout HostAssembler, hasAVX: Bool) {
        if hasAVX {
            testVectors(&code, HostFrame.Vectors.avx)
            let noUpperHalves = code.jump(if: 4)
            saveUpperHalves(&code)
            code.land(noUpperHalves)
        }
        testVectors(&code, HostFrame.Vectors.x87)
        let isAll = code.jump(if: 5)
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
    static func restoreVectors(_ code: inout HostAssembler, hasAVX: Bool) {
        testVectors(&code, HostFrame.Vectors.x87)
        let isAll = code.jump(if: 5)
        restoreSSE(&code)
        let end = code.jump()
        code.land(isAll)
        code.memory(0x0FAE, size: 8, reg: 1, HostFrame.image(0))  // fxrstor64
        code.land(end)
        guard hasAVX else { return }
        testVectors(&code, HostFrame.Vectors.avx)
        let noUpperHalves = code.jump(if: 4)
        restoreUpperHalves(&code)
        code.land(noUpperHalves)
    }

    // MARK: For a moment

    /// Where `moveVectors` keeps them: below the frame and the return address there.
    private static func place(_ number: UInt8) -> HostMemory {
        HostFrame.slot(8 - 1024 + Int32(number) * 32)
    }

    /// Puts vector registers, if they are the guest's, out of the way of a function of ours that
    /// neither reads MXCSR nor touches x87 registers, and back. RSP is 8 bytes below the frame.
    static func moveVectors(_ code: inout HostAssembler, hasAVX: Bool, isSave: Bool) {
        let slot = HostFrame.slot(HostFrame.vectors + 8)
        code.memory(0x83, size: 4, reg: 7, slot)  // cmp [vectors], 0
        code.byte(0)
        let noVectors = code.jump(if: 4)
        var end: Int?
        if hasAVX {
            let upper = HostFrame.slot(HostFrame.upperVectors + 8)
            code.memory(0xF6, size: 1, reg: 0, upper)  // test
            code.byte(UInt8(HostFrame.Vectors.avx >> 8))
            let noUpperHalves = code.jump(if: 4)
            for number in 0..<UInt8(16) {  // vmovaps
                code.vex(
                    map: 1, prefix: 0, opcode: isSave ? 0x29 : 0x28, is256: true, reg: number,
                    vvvv: 0, .memory(place(number)))
            }
            if isSave { code.bytes(0xC5, 0xF8, 0x77) }  // vzeroupper
            end = code.jump()
            code.land(noUpperHalves)
        }
        for number in 0..<UInt8(16) {  // movaps
            code.memory(isSave ? 0x0F29 : 0x0F28, size: 4, reg: number, place(number))
        }
        if let end { code.land(end) }
        code.land(noVectors)
    }

    // MARK: Upper halves

    private static func saveUpperHalves(_ code: inout HostAssembler) {
        code.memory(0xC7, size: 4, reg: 0, HostState.hasUpperHalves)
        code.word(1)
        for number in 0..<UInt8(16) {  // vextractf128
            code.vex(
                map: 3, prefix: 1, opcode: 0x19, is256: true, reg: number, vvvv: 0,
                .memory(HostState.upperHalf(number)))
            code.byte(1)
        }
        code.bytes(0xC5, 0xF8, 0x77)  // vzeroupper: the host's code has SSE only
    }

    private static func restoreUpperHalves(_ code: inout HostAssembler) {
        code.memory(0x83, size: 4, reg: 7, HostState.hasUpperHalves)  // cmp [...], 0
        code.byte(0)
        let areZero = code.jump(if: 4)
        for number in 0..<UInt8(16) {  // vinsertf128
            code.vex(
                map: 3, prefix: 1, opcode: 0x18, is256: true, reg: number, vvvv: number,
                .memory(HostState.upperHalf(number)))
            code.byte(1)
        }
        let end = code.jump()
        code.land(areZero)
        code.bytes(0xC5, 0xF8, 0x77)  // vzeroupper
        code.land(end)
    }

    /// The stub `loadUpperHalves`. SSE's are brought with them.
    static func bringUpperHalves(_ code: inout HostAssembler) {
        code.bytes(0x41, 0x5A)  // pop r10
        let isUnmasked = whenUnmasked(&code)
        testVectors(&code, HostFrame.Vectors.sse)
        let hasSSE = code.jump(if: 5)
        restoreSSE(&code)
        code.land(hasSSE)
        restoreUpperHalves(&code)
        addVectors(&code, HostFrame.Vectors.sse | HostFrame.Vectors.avx)
        code.land(isUnmasked)
        code.bytes(0x41, 0xFF, 0xE2)  // jmp r10
    }

    // MARK: SSE and x87

    /// - Returns: the jump that is taken if the guest does not mask all of SSE's exceptions. R9 is
    ///   0 otherwise.
    static func whenUnmasked(_ code: inout HostAssembler) -> Int {
        code.load(HostRegister.first, HostFrame.mxcsr, size: 4)
        code.registers(0xF7, size: 4, reg: 2, rm: HostRegister.first)  // not r9d
        code.registers(0x81, size: 4, reg: 4, rm: HostRegister.first)  // and r9d, masks
        code.word(Int32(MXCSR.masks))
        return code.jump(if: 5)
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
        addVectors(&code, HostFrame.Vectors.sse | HostFrame.Vectors.x87)
        code.land(isUnmasked)
        code.memory(0xFF, size: 4, reg: 4, HostFrame.slot(HostFrame.resume))  // jmp
    }
}
