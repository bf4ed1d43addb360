// The interpreter's inner loop: one `switch` over operation codes, run until a block's end leads
// somewhere that is not known yet or something wants attention.

extension CPU {
    /// Runs `first`, which has been counted, and the blocks connected to it. On return RIP is where
    /// to go on; the result says which way out of a block led there.
    ///
    /// Instructions are counted by block in advance, so whatever stops in the middle of one takes
    /// the rest back.
    @inline(never)
    func run(_ first: Block) -> BlockExit {
        var block = first
        var op = first.operations
        var exit = BlockExit.none
        do throws(Fault) {
            while true {
                switch op.code {
                // MARK: Two-operand arithmetic

                case .addRR8: aluRR(op, .add, UInt8.self)
                case .addRR16: aluRR(op, .add, UInt16.self)
                case .addRR32: aluRR(op, .add, UInt32.self)
                case .addRR64: aluRR(op, .add, UInt64.self)
                case .addRI8: aluRI(op, .add, UInt8.self)
                case .addRI16: aluRI(op, .add, UInt16.self)
                case .addRI32: aluRI(op, .add, UInt32.self)
                case .addRI64: aluRI(op, .add, UInt64.self)
                case .addRM8: try aluRM(op, .add, UInt8.self)
                case .addRM16: try aluRM(op, .add, UInt16.self)
                case .addRM32: try aluRM(op, .add, UInt32.self)
                case .addRM64: try aluRM(op, .add, UInt64.self)
                case .addMR8: try aluMR(op, .add, UInt8.self)
                case .addMR16: try aluMR(op, .add, UInt16.self)
                case .addMR32: try aluMR(op, .add, UInt32.self)
                case .addMR64: try aluMR(op, .add, UInt64.self)
                case .addMI8: try aluMI(op, .add, UInt8.self)
                case .addMI16: try aluMI(op, .add, UInt16.self)
                case .addMI32: try aluMI(op, .add, UInt32.self)
                case .addMI64: try aluMI(op, .add, UInt64.self)
                case .orRR8: aluRR(op, .or, UInt8.self)
                case .orRR16: aluRR(op, .or, UInt16.self)
                case .orRR32: aluRR(op, .or, UInt32.self)
                case .orRR64: aluRR(op, .or, UInt64.self)
                case .orRI8: aluRI(op, .or, UInt8.self)
                case .orRI16: aluRI(op, .or, UInt16.self)
                case .orRI32: aluRI(op, .or, UInt32.self)
                case .orRI64: aluRI(op, .or, UInt64.self)
                case .orRM8: try aluRM(op, .or, UInt8.self)
                case .orRM16: try aluRM(op, .or, UInt16.self)
                case .orRM32: try aluRM(op, .or, UInt32.self)
                case .orRM64: try aluRM(op, .or, UInt64.self)
                case .orMR8: try aluMR(op, .or, UInt8.self)
                case .orMR16: try aluMR(op, .or, UInt16.self)
                case .orMR32: try aluMR(op, .or, UInt32.self)
                case .orMR64: try aluMR(op, .or, UInt64.self)
                case .orMI8: try aluMI(op, .or, UInt8.self)
                case .orMI16: try aluMI(op, .or, UInt16.self)
                case .orMI32: try aluMI(op, .or, UInt32.self)
                case .orMI64: try aluMI(op, .or, UInt64.self)
                case .adcRR8: aluRR(op, .adc, UInt8.self)
                case .adcRR16: aluRR(op, .adc, UInt16.self)
                case .adcRR32: aluRR(op, .adc, UInt32.self)
                case .adcRR64: aluRR(op, .adc, UInt64.self)
                case .adcRI8: aluRI(op, .adc, UInt8.self)
                case .adcRI16: aluRI(op, .adc, UInt16.self)
                case .adcRI32: aluRI(op, .adc, UInt32.self)
                case .adcRI64: aluRI(op, .adc, UInt64.self)
                case .adcRM8: try aluRM(op, .adc, UInt8.self)
                case .adcRM16: try aluRM(op, .adc, UInt16.self)
                case .adcRM32: try aluRM(op, .adc, UInt32.self)
                case .adcRM64: try aluRM(op, .adc, UInt64.self)
                case .adcMR8: try aluMR(op, .adc, UInt8.self)
                case .adcMR16: try aluMR(op, .adc, UInt16.self)
                case .adcMR32: try aluMR(op, .adc, UInt32.self)
                case .adcMR64: try aluMR(op, .adc, UInt64.self)
                case .adcMI8: try aluMI(op, .adc, UInt8.self)
                case .adcMI16: try aluMI(op, .adc, UInt16.self)
                case .adcMI32: try aluMI(op, .adc, UInt32.self)
                case .adcMI64: try aluMI(op, .adc, UInt64.self)
                case .sbbRR8: aluRR(op, .sbb, UInt8.self)
                case .sbbRR16: aluRR(op, .sbb, UInt16.self)
                case .sbbRR32: aluRR(op, .sbb, UInt32.self)
                case .sbbRR64: aluRR(op, .sbb, UInt64.self)
                case .sbbRI8: aluRI(op, .sbb, UInt8.self)
                case .sbbRI16: aluRI(op, .sbb, UInt16.self)
                case .sbbRI32: aluRI(op, .sbb, UInt32.self)
                case .sbbRI64: aluRI(op, .sbb, UInt64.self)
                case .sbbRM8: try aluRM(op, .sbb, UInt8.self)
                case .sbbRM16: try aluRM(op, .sbb, UInt16.self)
                case .sbbRM32: try aluRM(op, .sbb, UInt32.self)
                case .sbbRM64: try aluRM(op, .sbb, UInt64.self)
                case .sbbMR8: try aluMR(op, .sbb, UInt8.self)
                case .sbbMR16: try aluMR(op, .sbb, UInt16.self)
                case .sbbMR32: try aluMR(op, .sbb, UInt32.self)
                case .sbbMR64: try aluMR(op, .sbb, UInt64.self)
                case .sbbMI8: try aluMI(op, .sbb, UInt8.self)
                case .sbbMI16: try aluMI(op, .sbb, UInt16.self)
                case .sbbMI32: try aluMI(op, .sbb, UInt32.self)
                case .sbbMI64: try aluMI(op, .sbb, UInt64.self)
                case .andRR8: aluRR(op, .and, UInt8.self)
                case .andRR16: aluRR(op, .and, UInt16.self)
                case .andRR32: aluRR(op, .and, UInt32.self)
                case .andRR64: aluRR(op, .and, UInt64.self)
                case .andRI8: aluRI(op, .and, UInt8.self)
                case .andRI16: aluRI(op, .and, UInt16.self)
                case .andRI32: aluRI(op, .and, UInt32.self)
                case .andRI64: aluRI(op, .and, UInt64.self)
                case .andRM8: try aluRM(op, .and, UInt8.self)
                case .andRM16: try aluRM(op, .and, UInt16.self)
                case .andRM32: try aluRM(op, .and, UInt32.self)
                case .andRM64: try aluRM(op, .and, UInt64.self)
                case .andMR8: try aluMR(op, .and, UInt8.self)
                case .andMR16: try aluMR(op, .and, UInt16.self)
                case .andMR32: try aluMR(op, .and, UInt32.self)
                case .andMR64: try aluMR(op, .and, UInt64.self)
                case .andMI8: try aluMI(op, .and, UInt8.self)
                case .andMI16: try aluMI(op, .and, UInt16.self)
                case .andMI32: try aluMI(op, .and, UInt32.self)
                case .andMI64: try aluMI(op, .and, UInt64.self)
                case .subRR8: aluRR(op, .sub, UInt8.self)
                case .subRR16: aluRR(op, .sub, UInt16.self)
                case .subRR32: aluRR(op, .sub, UInt32.self)
                case .subRR64: aluRR(op, .sub, UInt64.self)
                case .subRI8: aluRI(op, .sub, UInt8.self)
                case .subRI16: aluRI(op, .sub, UInt16.self)
                case .subRI32: aluRI(op, .sub, UInt32.self)
                case .subRI64: aluRI(op, .sub, UInt64.self)
                case .subRM8: try aluRM(op, .sub, UInt8.self)
                case .subRM16: try aluRM(op, .sub, UInt16.self)
                case .subRM32: try aluRM(op, .sub, UInt32.self)
                case .subRM64: try aluRM(op, .sub, UInt64.self)
                case .subMR8: try aluMR(op, .sub, UInt8.self)
                case .subMR16: try aluMR(op, .sub, UInt16.self)
                case .subMR32: try aluMR(op, .sub, UInt32.self)
                case .subMR64: try aluMR(op, .sub, UInt64.self)
                case .subMI8: try aluMI(op, .sub, UInt8.self)
                case .subMI16: try aluMI(op, .sub, UInt16.self)
                case .subMI32: try aluMI(op, .sub, UInt32.self)
                case .subMI64: try aluMI(op, .sub, UInt64.self)
                case .xorRR8: aluRR(op, .xor, UInt8.self)
                case .xorRR16: aluRR(op, .xor, UInt16.self)
                case .xorRR32: aluRR(op, .xor, UInt32.self)
                case .xorRR64: aluRR(op, .xor, UInt64.self)
                case .xorRI8: aluRI(op, .xor, UInt8.self)
                case .xorRI16: aluRI(op, .xor, UInt16.self)
                case .xorRI32: aluRI(op, .xor, UInt32.self)
                case .xorRI64: aluRI(op, .xor, UInt64.self)
                case .xorRM8: try aluRM(op, .xor, UInt8.self)
                case .xorRM16: try aluRM(op, .xor, UInt16.self)
                case .xorRM32: try aluRM(op, .xor, UInt32.self)
                case .xorRM64: try aluRM(op, .xor, UInt64.self)
                case .xorMR8: try aluMR(op, .xor, UInt8.self)
                case .xorMR16: try aluMR(op, .xor, UInt16.self)
                case .xorMR32: try aluMR(op, .xor, UInt32.self)
                case .xorMR64: try aluMR(op, .xor, UInt64.self)
                case .xorMI8: try aluMI(op, .xor, UInt8.self)
                case .xorMI16: try aluMI(op, .xor, UInt16.self)
                case .xorMI32: try aluMI(op, .xor, UInt32.self)
                case .xorMI64: try aluMI(op, .xor, UInt64.self)
                case .cmpRR8: aluRR(op, .cmp, UInt8.self)
                case .cmpRR16: aluRR(op, .cmp, UInt16.self)
                case .cmpRR32: aluRR(op, .cmp, UInt32.self)
                case .cmpRR64: aluRR(op, .cmp, UInt64.self)
                case .cmpRI8: aluRI(op, .cmp, UInt8.self)
                case .cmpRI16: aluRI(op, .cmp, UInt16.self)
                case .cmpRI32: aluRI(op, .cmp, UInt32.self)
                case .cmpRI64: aluRI(op, .cmp, UInt64.self)
                case .cmpRM8: try aluRM(op, .cmp, UInt8.self)
                case .cmpRM16: try aluRM(op, .cmp, UInt16.self)
                case .cmpRM32: try aluRM(op, .cmp, UInt32.self)
                case .cmpRM64: try aluRM(op, .cmp, UInt64.self)
                case .cmpMR8: try compareMR(op, .cmp, UInt8.self)
                case .cmpMR16: try compareMR(op, .cmp, UInt16.self)
                case .cmpMR32: try compareMR(op, .cmp, UInt32.self)
                case .cmpMR64: try compareMR(op, .cmp, UInt64.self)
                case .cmpMI8: try compareMI(op, .cmp, UInt8.self)
                case .cmpMI16: try compareMI(op, .cmp, UInt16.self)
                case .cmpMI32: try compareMI(op, .cmp, UInt32.self)
                case .cmpMI64: try compareMI(op, .cmp, UInt64.self)
                case .testRR8: aluRR(op, .test, UInt8.self)
                case .testRR16: aluRR(op, .test, UInt16.self)
                case .testRR32: aluRR(op, .test, UInt32.self)
                case .testRR64: aluRR(op, .test, UInt64.self)
                case .testRI8: aluRI(op, .test, UInt8.self)
                case .testRI16: aluRI(op, .test, UInt16.self)
                case .testRI32: aluRI(op, .test, UInt32.self)
                case .testRI64: aluRI(op, .test, UInt64.self)
                case .testRM8: try aluRM(op, .test, UInt8.self)
                case .testRM16: try aluRM(op, .test, UInt16.self)
                case .testRM32: try aluRM(op, .test, UInt32.self)
                case .testRM64: try aluRM(op, .test, UInt64.self)
                case .testMR8: try compareMR(op, .test, UInt8.self)
                case .testMR16: try compareMR(op, .test, UInt16.self)
                case .testMR32: try compareMR(op, .test, UInt32.self)
                case .testMR64: try compareMR(op, .test, UInt64.self)
                case .testMI8: try compareMI(op, .test, UInt8.self)
                case .testMI16: try compareMI(op, .test, UInt16.self)
                case .testMI32: try compareMI(op, .test, UInt32.self)
                case .testMI64: try compareMI(op, .test, UInt64.self)

                // MARK: Moves

                case .movRR8: moveRR(op, UInt8.self)
                case .movRR16: moveRR(op, UInt16.self)
                case .movRR32: moveRR(op, UInt32.self)
                case .movRR64: moveRR(op, UInt64.self)
                case .movRI8: moveRI(op, UInt8.self)
                case .movRI16: moveRI(op, UInt16.self)
                case .movRI32: moveRI(op, UInt32.self)
                case .movRI64: moveRI(op, UInt64.self)
                case .movRM8: try moveRM(op, UInt8.self)
                case .movRM16: try moveRM(op, UInt16.self)
                case .movRM32: try moveRM(op, UInt32.self)
                case .movRM64: try moveRM(op, UInt64.self)
                case .movMR8: try moveMR(op, UInt8.self)
                case .movMR16: try moveMR(op, UInt16.self)
                case .movMR32: try moveMR(op, UInt32.self)
                case .movMR64: try moveMR(op, UInt64.self)
                case .movMI8: try moveMI(op, UInt8.self)
                case .movMI16: try moveMI(op, UInt16.self)
                case .movMI32: try moveMI(op, UInt32.self)
                case .movMI64: try moveMI(op, UInt64.self)

                case .lea32: setRegister(op.destination, UInt32(truncatingIfNeeded: addressSum(op)))
                case .lea64: self[op.destination] = addressSum(op)
                case .leaGeneral: setRegister(op.destination, effectiveOffset(op), size: op.size)
                case .movzxRR8: self[op.destination] = UInt64(register(op.source, as: UInt8.self))
                case .movzxRR16:
                    self[op.destination] = UInt64(register(op.source, as: UInt16.self))
                case .movzxRM8: self[op.destination] = UInt64(try loadOperand(op, as: UInt8.self))
                case .movzxRM16:
                    self[op.destination] = UInt64(try loadOperand(op, as: UInt16.self))
                case .movsx32RR8:
                    moveSigned(op, register(op.source, as: UInt8.self), to: UInt32.self)
                case .movsx32RR16:
                    moveSigned(op, register(op.source, as: UInt16.self), to: UInt32.self)
                case .movsx32RM8:
                    moveSigned(op, try loadOperand(op, as: UInt8.self), to: UInt32.self)
                case .movsx32RM16:
                    moveSigned(op, try loadOperand(op, as: UInt16.self), to: UInt32.self)
                case .movsx64RR8:
                    moveSigned(op, register(op.source, as: UInt8.self), to: UInt64.self)
                case .movsx64RR16:
                    moveSigned(op, register(op.source, as: UInt16.self), to: UInt64.self)
                case .movsx64RR32:
                    moveSigned(op, register(op.source, as: UInt32.self), to: UInt64.self)
                case .movsx64RM8:
                    moveSigned(op, try loadOperand(op, as: UInt8.self), to: UInt64.self)
                case .movsx64RM16:
                    moveSigned(op, try loadOperand(op, as: UInt16.self), to: UInt64.self)
                case .movsx64RM32:
                    moveSigned(op, try loadOperand(op, as: UInt32.self), to: UInt64.self)
                case .xchgRR32: exchangeRR(op, UInt32.self)
                case .xchgRR64: exchangeRR(op, UInt64.self)
                case .cwde:
                    let value = register(Register.rax, as: UInt16.self)
                    setRegister(
                        Register.rax, UInt32(truncatingIfNeeded: signExtended(value)))
                case .cdqe:
                    self[Register.rax] = signExtended(register(Register.rax, as: UInt32.self))
                case .cdq:
                    let sign = signExtended(register(Register.rax, as: UInt32.self)) >> 63
                    setRegister(Register.rdx, 0 &- UInt32(sign))
                case .cqo: self[Register.rdx] = 0 &- (self[Register.rax] >> 63)
                case .bswap32:
                    setRegister(
                        op.destination, register(op.destination, as: UInt32.self).byteSwapped)
                case .bswap64: self[op.destination] = self[op.destination].byteSwapped
                case .nop: break

                // MARK: One-operand arithmetic

                case .incR8: unaryR(op, .inc, UInt8.self)
                case .incR16: unaryR(op, .inc, UInt16.self)
                case .incR32: unaryR(op, .inc, UInt32.self)
                case .incR64: unaryR(op, .inc, UInt64.self)
                case .incM8: try unaryM(op, .inc, UInt8.self)
                case .incM16: try unaryM(op, .inc, UInt16.self)
                case .incM32: try unaryM(op, .inc, UInt32.self)
                case .incM64: try unaryM(op, .inc, UInt64.self)
                case .decR8: unaryR(op, .dec, UInt8.self)
                case .decR16: unaryR(op, .dec, UInt16.self)
                case .decR32: unaryR(op, .dec, UInt32.self)
                case .decR64: unaryR(op, .dec, UInt64.self)
                case .decM8: try unaryM(op, .dec, UInt8.self)
                case .decM16: try unaryM(op, .dec, UInt16.self)
                case .decM32: try unaryM(op, .dec, UInt32.self)
                case .decM64: try unaryM(op, .dec, UInt64.self)
                case .notR8: unaryR(op, .not, UInt8.self)
                case .notR16: unaryR(op, .not, UInt16.self)
                case .notR32: unaryR(op, .not, UInt32.self)
                case .notR64: unaryR(op, .not, UInt64.self)
                case .notM8: try unaryM(op, .not, UInt8.self)
                case .notM16: try unaryM(op, .not, UInt16.self)
                case .notM32: try unaryM(op, .not, UInt32.self)
                case .notM64: try unaryM(op, .not, UInt64.self)
                case .negR8: unaryR(op, .neg, UInt8.self)
                case .negR16: unaryR(op, .neg, UInt16.self)
                case .negR32: unaryR(op, .neg, UInt32.self)
                case .negR64: unaryR(op, .neg, UInt64.self)
                case .negM8: try unaryM(op, .neg, UInt8.self)
                case .negM16: try unaryM(op, .neg, UInt16.self)
                case .negM32: try unaryM(op, .neg, UInt32.self)
                case .negM64: try unaryM(op, .neg, UInt64.self)

                // MARK: Shifts, multiplication, bits

                case .shlRI32: shiftRI(op, .shl, UInt32.self)
                case .shlRI64: shiftRI(op, .shl, UInt64.self)
                case .shlRC32: shiftRC(op, .shl, UInt32.self)
                case .shlRC64: shiftRC(op, .shl, UInt64.self)
                case .shrRI32: shiftRI(op, .shr, UInt32.self)
                case .shrRI64: shiftRI(op, .shr, UInt64.self)
                case .shrRC32: shiftRC(op, .shr, UInt32.self)
                case .shrRC64: shiftRC(op, .shr, UInt64.self)
                case .sarRI32: shiftRI(op, .sar, UInt32.self)
                case .sarRI64: shiftRI(op, .sar, UInt64.self)
                case .sarRC32: shiftRC(op, .sar, UInt32.self)
                case .sarRC64: shiftRC(op, .sar, UInt64.self)
                case .rolRI32: shiftRI(op, .rol, UInt32.self)
                case .rolRI64: shiftRI(op, .rol, UInt64.self)
                case .rolRC32: shiftRC(op, .rol, UInt32.self)
                case .rolRC64: shiftRC(op, .rol, UInt64.self)
                case .rorRI32: shiftRI(op, .ror, UInt32.self)
                case .rorRI64: shiftRI(op, .ror, UInt64.self)
                case .rorRC32: shiftRC(op, .ror, UInt32.self)
                case .rorRC64: shiftRC(op, .ror, UInt64.self)
                case .imulRR32: multiplyRR(op, UInt32.self)
                case .imulRR64: multiplyRR(op, UInt64.self)
                case .imulRM32: try multiplyRM(op, UInt32.self)
                case .imulRM64: try multiplyRM(op, UInt64.self)
                case .imulRRI32: multiplyRRI(op, UInt32.self)
                case .imulRRI64: multiplyRRI(op, UInt64.self)
                case .imulRMI32: try multiplyRMI(op, UInt32.self)
                case .imulRMI64: try multiplyRMI(op, UInt64.self)
                case .mulR32: multiplyUnsigned(register(op.source, as: UInt32.self))
                case .mulR64: multiplyUnsigned(register(op.source, as: UInt64.self))
                case .mulM32: multiplyUnsigned(try loadOperand(op, as: UInt32.self))
                case .mulM64: multiplyUnsigned(try loadOperand(op, as: UInt64.self))
                case .btRR32: bitTestRegister(op, register(op.source, as: UInt32.self))
                case .btRR64: bitTestRegister(op, register(op.source, as: UInt64.self))
                case .btRI32: bitTestRegister(op, UInt32(truncatingIfNeeded: op.immediate))
                case .btRI64: bitTestRegister(op, UInt64(truncatingIfNeeded: op.immediate))

                // MARK: By condition

                case .jo:
                    if follow(if: .o, &block, &op, &exit) { continue } else { return exit }
                case .jno:
                    if follow(if: .no, &block, &op, &exit) { continue } else { return exit }
                case .jb:
                    if follow(if: .b, &block, &op, &exit) { continue } else { return exit }
                case .jae:
                    if follow(if: .ae, &block, &op, &exit) { continue } else { return exit }
                case .je:
                    if follow(if: .e, &block, &op, &exit) { continue } else { return exit }
                case .jne:
                    if follow(if: .ne, &block, &op, &exit) { continue } else { return exit }
                case .jbe:
                    if follow(if: .be, &block, &op, &exit) { continue } else { return exit }
                case .ja:
                    if follow(if: .a, &block, &op, &exit) { continue } else { return exit }
                case .js:
                    if follow(if: .s, &block, &op, &exit) { continue } else { return exit }
                case .jns:
                    if follow(if: .ns, &block, &op, &exit) { continue } else { return exit }
                case .jp:
                    if follow(if: .p, &block, &op, &exit) { continue } else { return exit }
                case .jnp:
                    if follow(if: .np, &block, &op, &exit) { continue } else { return exit }
                case .jl:
                    if follow(if: .l, &block, &op, &exit) { continue } else { return exit }
                case .jge:
                    if follow(if: .ge, &block, &op, &exit) { continue } else { return exit }
                case .jle:
                    if follow(if: .le, &block, &op, &exit) { continue } else { return exit }
                case .jg:
                    if follow(if: .g, &block, &op, &exit) { continue } else { return exit }
                case .seto: setRegister(op.destination, condition(.o) ? 1 : 0 as UInt8)
                case .setno: setRegister(op.destination, condition(.no) ? 1 : 0 as UInt8)
                case .setb: setRegister(op.destination, condition(.b) ? 1 : 0 as UInt8)
                case .setae: setRegister(op.destination, condition(.ae) ? 1 : 0 as UInt8)
                case .sete: setRegister(op.destination, condition(.e) ? 1 : 0 as UInt8)
                case .setne: setRegister(op.destination, condition(.ne) ? 1 : 0 as UInt8)
                case .setbe: setRegister(op.destination, condition(.be) ? 1 : 0 as UInt8)
                case .seta: setRegister(op.destination, condition(.a) ? 1 : 0 as UInt8)
                case .sets: setRegister(op.destination, condition(.s) ? 1 : 0 as UInt8)
                case .setns: setRegister(op.destination, condition(.ns) ? 1 : 0 as UInt8)
                case .setp: setRegister(op.destination, condition(.p) ? 1 : 0 as UInt8)
                case .setnp: setRegister(op.destination, condition(.np) ? 1 : 0 as UInt8)
                case .setl: setRegister(op.destination, condition(.l) ? 1 : 0 as UInt8)
                case .setge: setRegister(op.destination, condition(.ge) ? 1 : 0 as UInt8)
                case .setle: setRegister(op.destination, condition(.le) ? 1 : 0 as UInt8)
                case .setg: setRegister(op.destination, condition(.g) ? 1 : 0 as UInt8)
                case .cmovoRR32: conditionalMove(op, .o, UInt32.self)
                case .cmovnoRR32: conditionalMove(op, .no, UInt32.self)
                case .cmovbRR32: conditionalMove(op, .b, UInt32.self)
                case .cmovaeRR32: conditionalMove(op, .ae, UInt32.self)
                case .cmoveRR32: conditionalMove(op, .e, UInt32.self)
                case .cmovneRR32: conditionalMove(op, .ne, UInt32.self)
                case .cmovbeRR32: conditionalMove(op, .be, UInt32.self)
                case .cmovaRR32: conditionalMove(op, .a, UInt32.self)
                case .cmovsRR32: conditionalMove(op, .s, UInt32.self)
                case .cmovnsRR32: conditionalMove(op, .ns, UInt32.self)
                case .cmovpRR32: conditionalMove(op, .p, UInt32.self)
                case .cmovnpRR32: conditionalMove(op, .np, UInt32.self)
                case .cmovlRR32: conditionalMove(op, .l, UInt32.self)
                case .cmovgeRR32: conditionalMove(op, .ge, UInt32.self)
                case .cmovleRR32: conditionalMove(op, .le, UInt32.self)
                case .cmovgRR32: conditionalMove(op, .g, UInt32.self)
                case .cmovoRR64: conditionalMove(op, .o, UInt64.self)
                case .cmovnoRR64: conditionalMove(op, .no, UInt64.self)
                case .cmovbRR64: conditionalMove(op, .b, UInt64.self)
                case .cmovaeRR64: conditionalMove(op, .ae, UInt64.self)
                case .cmoveRR64: conditionalMove(op, .e, UInt64.self)
                case .cmovneRR64: conditionalMove(op, .ne, UInt64.self)
                case .cmovbeRR64: conditionalMove(op, .be, UInt64.self)
                case .cmovaRR64: conditionalMove(op, .a, UInt64.self)
                case .cmovsRR64: conditionalMove(op, .s, UInt64.self)
                case .cmovnsRR64: conditionalMove(op, .ns, UInt64.self)
                case .cmovpRR64: conditionalMove(op, .p, UInt64.self)
                case .cmovnpRR64: conditionalMove(op, .np, UInt64.self)
                case .cmovlRR64: conditionalMove(op, .l, UInt64.self)
                case .cmovgeRR64: conditionalMove(op, .ge, UInt64.self)
                case .cmovleRR64: conditionalMove(op, .le, UInt64.self)
                case .cmovgRR64: conditionalMove(op, .g, UInt64.self)

                // MARK: The stack and branches of 64-bit code

                case .pushR64: try push64(self[op.source])
                case .pushI64: try push64(UInt64(bitPattern: op.immediate))
                case .pushM64: try push64(try loadOperand(op, as: UInt64.self))
                case .popR64: self[op.destination] = try pop64()
                case .leave64:
                    let frame = self[Register.rbp]
                    self[Register.rbp] = try load(frame, as: UInt64.self)
                    self[Register.rsp] = frame &+ 8
                case .jump:
                    if follow(.taken, &block, &op, &exit) { continue } else { return exit }
                case .fallThrough:
                    if follow(.next, &block, &op, &exit) { continue } else { return exit }
                case .call64:
                    try push64(block.nextRIP(op))
                    if follow(.taken, &block, &op, &exit) { continue } else { return exit }
                case .callR64:
                    let target = try canonicalTarget(self[op.source])
                    try push64(block.nextRIP(op))
                    if jump(target, &block, &op) { continue } else { return .none }
                case .callM64:
                    let target = try canonicalTarget(try loadOperand(op, as: UInt64.self))
                    try push64(block.nextRIP(op))
                    if jump(target, &block, &op) { continue } else { return .none }
                case .jumpR64:
                    let target = try canonicalTarget(self[op.source])
                    if jump(target, &block, &op) { continue } else { return .none }
                case .jumpM64:
                    let target = try canonicalTarget(try loadOperand(op, as: UInt64.self))
                    if jump(target, &block, &op) { continue } else { return .none }
                case .ret64:
                    let top = self[Register.rsp]
                    let target = try canonicalTarget(try load(top, as: UInt64.self))
                    self[Register.rsp] = top &+ 8
                    if jump(target, &block, &op) { continue } else { return .none }
                case .retImmediate64:
                    let top = self[Register.rsp]
                    let target = try canonicalTarget(try load(top, as: UInt64.self))
                    self[Register.rsp] = top &+ 8 &+ UInt64(bitPattern: op.immediate)
                    if jump(target, &block, &op) { continue } else { return .none }

                // MARK: Everything else

                case .enableInterrupts:
                    if try !enableInterrupts(op, of: block) { return .none }
                case .general: try general(op)
                case .string:
                    if try !string(op) { return stop(block, op) }
                case .leaf: try leaf(op, rip: block.rip(of: op))
                case .transfer:
                    rip = block.rip(of: op)
                    if try !transfer(op, nextRIP: block.nextRIP(op)) { uncount(block, from: op) }
                    return .none
                case .undefined: throw .invalidOpcode
                case .tooLong: throw .generalProtection(0)
                case .stop: return stop(block, op)
                }
                op = op.next
            }
        } catch {
            fault(error, block, op)
            return .faulted
        }
    }
}
