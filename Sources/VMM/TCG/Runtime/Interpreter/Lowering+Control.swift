internal import TCGDecoder

extension Lowering {
    func lowerControl(
        _ instruction: Instruction, _ op: inout Operation, _ flow: inout LoweredFlow,
        nextRIP: UInt64
    ) -> Bool {
        switch instruction.mnemonic {
        case .jcc:
            let target = target(instruction, nextRIP)
            if target > codeLimit {
                transfer(&op, .branchBeyondLimit)
                op.source = instruction.condition
            } else {
                op.code = OperationCode.jo.advanced(by: Int(instruction.condition))
                flow = .branches(target)
            }
        case .jmp, .call: lowerJump(instruction, &op, &flow, nextRIP: nextRIP)
        case .ret:
            transfer(&op, .ret)
            op.immediate = instruction.immediate
            if is64 && instruction.operandSize == 8 {
                op.code = instruction.immediate == 0 ? .ret64 : .retImmediate64
                flow = .ends
            }
        case .jrcxz: lowerCounting(instruction, &op, .jrcxz, nextRIP)
        case .loop: lowerCounting(instruction, &op, .loop, nextRIP)
        case .loope, .loopne:
            // A REP prefix decides instead of the opcode, on Zen at least.
            let isRepeatEqual =
                instruction.prefixes.contains(.rep)
                || (instruction.mnemonic == .loope && !instruction.prefixes.contains(.repne))
            lowerCounting(instruction, &op, isRepeatEqual ? .loope : .loopne, nextRIP)
        case .jmpFar, .callFar: lowerFar(instruction, &op)
        case .retFar:
            transfer(&op, .retFar)
            op.immediate = instruction.immediate
        case .int:
            transfer(&op, .int)
            op.immediate = instruction.immediate
        case .int3: transfer(&op, .int3)
        case .int1: transfer(&op, .int1)
        case .into: transfer(&op, .into)
        case .iret: transfer(&op, .iret)
        case .syscall: transfer(&op, .syscall)
        case .sysret: transfer(&op, .sysret)
        case .sysenter: transfer(&op, .sysenter)
        case .sysexit: transfer(&op, .sysexit)
        case .bound: setBound(instruction, &op)
        default: return false
        }
        return true
    }

    /// A relative branch's target, cut to the operand size.
    private func target(_ instruction: Instruction, _ nextRIP: UInt64) -> UInt64 {
        let target = nextRIP &+ UInt64(bitPattern: instruction.immediate)
        switch instruction.operandSize {
        case 2: return target & 0xFFFF
        case 4: return target & 0xFFFF_FFFF
        default: return target
        }
    }

    private func lowerJump(
        _ instruction: Instruction, _ op: inout Operation, _ flow: inout LoweredFlow,
        nextRIP: UInt64
    ) {
        let isCall = instruction.mnemonic == .call
        let isFast = is64 && instruction.operandSize == 8
        transfer(&op, isCall ? .callNear : .jumpNear)
        let operand = instruction.operands[0]
        setSource(&op, instruction, operand)
        if operand.kind == .relative {
            let target = target(instruction, nextRIP)
            op.immediate = Int64(bitPattern: target)
            if !isCall && target <= codeLimit {
                op.code = .jump
                flow = .branches(target)
            } else if isFast {
                op.code = .call64
                flow = .branches(target)
            }
        } else if isFast {
            if operand.kind == .memory {
                op.code = isCall ? .callM64 : .jumpM64
            } else {
                op.code = isCall ? .callR64 : .jumpR64
            }
            flow = .ends
        }
    }

    private func lowerCounting(
        _ instruction: Instruction, _ op: inout Operation, _ operation: TransferOperation,
        _ nextRIP: UInt64
    ) {
        transfer(&op, operation)
        op.immediate = Int64(bitPattern: target(instruction, nextRIP))
        op.displacement = Int64(instruction.addressSize)
    }

    private func lowerFar(_ instruction: Instruction, _ op: inout Operation) {
        let isCall = instruction.mnemonic == .callFar
        if instruction.operands[0].kind == .farPointer {
            transfer(&op, isCall ? .callFar : .jumpFar)
            op.immediate = instruction.immediate
            op.displacement = Int64(instruction.immediate2)
        } else {
            transfer(&op, isCall ? .callFarMemory : .jumpFarMemory)
            op.form.insert(.memorySource)
        }
    }

    private func setBound(_ instruction: Instruction, _ op: inout Operation) {
        general(&op, .bound)
        op.source = instruction.operands[0].register
        op.form.insert(.memorySource)
    }

    // MARK: System instructions

    func lowerSystem(
        _ instruction: Instruction, _ op: inout Operation, _ flow: inout LoweredFlow
    ) -> Bool {
        switch instruction.mnemonic {
        case .lds, .les, .lss, .lfs, .lgs: lowerFarLoad(instruction, &op)
        case .hlt: transfer(&op, .hlt)
        case .clts: transfer(&op, .clts)
        case .lgdt: setTransfer(instruction, &op, .lgdt)
        case .lidt: setTransfer(instruction, &op, .lidt)
        case .lmsw: setTransfer(instruction, &op, .lmsw)
        case .wrmsr: transfer(&op, .wrmsr)
        case .xsetbv: transfer(&op, .xsetbv)
        // What follows a serializing instruction may have been written while its block ran.
        case .cpuid: transfer(&op, .cpuid)
        case .invd, .wbinvd: transfer(&op, .cacheFlush)
        case .invlpg: setTransfer(instruction, &op, .invlpg)
        case .invpcid:
            transfer(&op, .invpcid)
            op.destination = instruction.operands[0].register
            op.form.insert(.memorySource)
        case .rdtsc, .rdtscp:
            transfer(&op, .rdtsc)
            op.immediate = instruction.mnemonic == .rdtscp ? 1 : 0
        case .vmcall, .vmmcall: transfer(&op, .hypercall)
        case .inPort, .outPort:
            let isInput = instruction.mnemonic == .inPort
            transfer(&op, isInput ? .inPort : .outPort)
            setSource(&op, instruction, instruction.operands[isInput ? 1 : 0])
        case .ud0, .ud1, .ud2: op.code = .undefined
        default:
            return lowerProtected(instruction, &op) || lowerQuietSystem(instruction, &op)
        }
        return true
    }

    private func setTransfer(
        _ instruction: Instruction, _ op: inout Operation, _ operation: TransferOperation
    ) {
        transfer(&op, operation)
        setSource(&op, instruction, instruction.operands[0])
    }

    private func lowerFarLoad(_ instruction: Instruction, _ op: inout Operation) {
        transfer(&op, .loadFarPointer)
        op.destination = instruction.operands[0].register
        op.form.insert(.memorySource)
        switch instruction.mnemonic {
        case .les: op.source = SegmentRegister.es
        case .lss: op.source = SegmentRegister.ss
        case .lds: op.source = SegmentRegister.ds
        case .lfs: op.source = SegmentRegister.fs
        default: op.source = SegmentRegister.gs
        }
    }

    /// What exists in protected mode only (not in real mode and VM86).
    private func lowerProtected(_ instruction: Instruction, _ op: inout Operation) -> Bool {
        switch instruction.mnemonic {
        case .lldt: setTransfer(instruction, &op, .lldt)
        case .ltr: setTransfer(instruction, &op, .ltr)
        case .lar: setOperands(&op, instruction, .lar)
        case .lsl: setOperands(&op, instruction, .lsl)
        case .verr: setOnlySource(&op, instruction, .verr)
        case .verw: setOnlySource(&op, instruction, .verw)
        case .sldt: setOperands(&op, instruction, .sldt)
        case .str: setOperands(&op, instruction, .str)
        case .arpl: setOperands(&op, instruction, .arpl)
        default: return false
        }
        if !isProtected { op.code = .undefined }
        return true
    }

    private func lowerQuietSystem(_ instruction: Instruction, _ op: inout Operation) -> Bool {
        switch instruction.mnemonic {
        case .smsw: setOperands(&op, instruction, .smsw)
        case .sgdt: setOperands(&op, instruction, .sgdt)
        case .sidt: setOperands(&op, instruction, .sidt)
        case .rdmsr: general(&op, .rdmsr)
        case .rdpmc: general(&op, .rdpmc)
        case .swapgs: general(&op, .swapgs)
        case .rdfsbase, .rdgsbase:
            general(&op, .readSegmentBase)
            op.size = instruction.operands[0].size
            op.destination = instruction.operands[0].register
            op.segment =
                instruction.mnemonic == .rdfsbase ? SegmentRegister.fs : SegmentRegister.gs
        case .wrfsbase, .wrgsbase:
            general(&op, .writeSegmentBase)
            op.size = instruction.operands[0].size
            op.source = instruction.operands[0].register
            op.segment =
                instruction.mnemonic == .wrfsbase ? SegmentRegister.fs : SegmentRegister.gs
        case .xgetbv: general(&op, .xgetbv)
        case .xsave: setOperands(&op, instruction, .xsave)
        case .xsaveopt: setOperands(&op, instruction, .xsaveopt)
        case .xsavec: setOperands(&op, instruction, .xsavec)
        case .xrstor: setOnlySource(&op, instruction, .xrstor)
        case .clflush:
            general(&op, .cacheLineFlush)
            op.form.insert(.memorySource)
        case .lfence, .sfence: op.code = .nop
        case .mfence:
            general(&op, .fence)
            if isOnlyCPU { op.code = .nop }
        case .pause:
            general(&op, .pause)
            if isOnlyCPU { op.code = .nop }
        default: return false
        }
        return true
    }
}
