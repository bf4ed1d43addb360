extension DecodeState {
    private var rm: UInt8 { instruction.modRM & 7 | extendBase }
    private var reg: UInt8 { (instruction.modRM >> 3) & 7 | extendReg }
    private var isRegister: Bool { instruction.modRM >= 0xC0 }
    /// Two bits extend a vector in ModRM.rm: EVEX uses X for the second.
    private var vectorRM: UInt8 {
        instruction.encoding == .evex ? rm | extendIndex << 1 : rm
    }
    /// Outside 64-bit mode the highest bit is ignored.
    private var vvvvRegister: UInt8 { is64 ? vvvv : vvvv & 7 }
    private var wSize: UInt8 { w && is64 ? 8 : 4 }
    private var modeSize: UInt8 { is64 ? 8 : 4 }

    /// Adds the operand that `specification` describes.
    mutating func decodeOperand(
        _ specification: OperandSpecification, _ bytes: Span<UInt8>
    ) throws(DecodeFailure) {
        let size = instruction.operandSize
        let length = vectorLength
        switch specification {
        case .none: return

        case .Eb: generalOrMemory(1)
        case .Ew: generalOrMemory(2)
        case .Ed: generalOrMemory(4)
        case .Eq: generalOrMemory(8)
        case .Ev: generalOrMemory(size)
        case .Ey: generalOrMemory(wSize)
        case .Ez: generalOrMemory(min(size, 4))
        case .Em: generalOrMemory(modeSize)
        case .RvMw: generalOrMemory(size, memory: 2)
        case .RzMw: generalOrMemory(min(size, 4), memory: 2)
        case .RdMb: generalOrMemory(4, memory: 1)
        case .RdMw: generalOrMemory(4, memory: 2)
        case .RyMb: generalOrMemory(wSize, memory: 1)
        case .RyMw: generalOrMemory(wSize, memory: 2)

        case .M: try memory(0)
        case .Mb: try memory(1)
        case .Mw: try memory(2)
        case .Md: try memory(4)
        case .Mq: try memory(8)
        case .Mdq: try memory(16)
        case .Mqq: try memory(32)
        case .Mx: try memory(length)
        case .Mv: try memory(size)
        case .My: try memory(wSize)
        case .Mp: try memory(size &+ 2)
        case .Ma: try memory(size &* 2)
        case .Ms: try memory(is64 ? 10 : 6)
        case .Mt: try memory(10)
        case .Menv: try memory(size == 2 ? 14 : 28)
        case .Mstate: try memory(size == 2 ? 94 : 108)
        case .M48: try memory(48)
        case .M64: try memory(64)
        case .Mh: try memory(length / 2)
        case .Mf: try memory(length / 4)
        case .Me: try memory(length / 8)
        case .MvsibD: try memory(4)
        case .MvsibQ: try memory(8)
        case .Mcx: try memory(w && is64 ? 16 : 8)

        case .Gb: generalByte(reg)
        case .Gw: try general(2, reg)
        case .Gd: try general(4, reg)
        case .Gq: try general(8, reg)
        case .Gv: try general(size, reg)
        case .Gy: try general(wSize, reg)
        case .Gz: try general(min(size, 4), reg)
        case .Ga: try general(instruction.addressSize, reg)
        case .Gm: try general(modeSize, reg)
        case .Rd: try generalRM(4)
        case .Rq: try generalRM(8)
        case .Rv: try generalRM(size)
        case .Ry: try generalRM(wSize)
        case .Ra: try generalRM(instruction.addressSize)
        case .Rm:
            // Moves from and to control and debug registers ignore ModRM.mod.
            append(.general, modeSize, rm)
        case .By:
            usesVvvv = true
            append(.general, wSize, vvvvRegister, .vvvv)
        case .Cd:
            // CR1, CR5-7 and CR9-15 do not exist.
            guard 0b1_0001_1101 >> UInt16(reg) & 1 != 0 else { throw .undefined }
            append(.control, modeSize, reg)
        case .Dd:
            guard reg < 8 else { throw .undefined }
            append(.debug, modeSize, reg)
        case .Sw:
            let number = instruction.modRMReg
            guard number < 6 else { throw .undefined }
            append(.segment, 2, number)
        case .SwNotCS:
            let number = instruction.modRMReg
            guard number < 6, number != 1 else { throw .undefined }
            append(.segment, 2, number)

        case .Pq: append(.mmx, 8, instruction.modRMReg)
        case .Qq: mmxOrMemory(8)
        case .Qd: mmxOrMemory(4)
        case .Nq:
            guard isRegister else { throw .undefined }
            append(.mmx, 8, instruction.modRM & 7)

        case .Vx: vectorReg(length)
        case .Vdq: vectorReg(16)
        case .Vqq: vectorReg(32)
        case .Vzz: vectorReg(64)
        case .Vh: vectorReg(max(16, length / 2))
        case .Vf: vectorReg(max(16, length / 4))
        case .Ve: vectorReg(16)
        case .Hx: vectorVvvv(length)
        case .Hdq: vectorVvvv(16)
        case .Lx: try vectorImmediate(length, bytes)
        case .Ldq: try vectorImmediate(16, bytes)

        case .Wx: vectorOrMemory(length, memory: length)
        case .Wdq: vectorOrMemory(16, memory: 16)
        case .Wqq: vectorOrMemory(32, memory: 32)
        case .Wb: vectorOrMemory(16, memory: 1)
        case .Ww: vectorOrMemory(16, memory: 2)
        case .Wd: vectorOrMemory(16, memory: 4)
        case .Wq: vectorOrMemory(16, memory: 8)
        case .Wh: vectorOrMemory(max(16, length / 2), memory: length / 2)
        case .Wf: vectorOrMemory(max(16, length / 4), memory: length / 4)
        case .We: vectorOrMemory(16, memory: length / 8)
        case .Wdup: vectorOrMemory(length, memory: length == 16 ? 8 : length)
        case .Ux: try vectorRegister(length)
        case .Udq: try vectorRegister(16)
        case .Uqq: try vectorRegister(32)

        case .Kg:
            guard extendReg | extendRegHigh == 0 else { throw .undefined }
            append(.mask, 8, instruction.modRMReg)
        case .Kv:
            usesVvvv = true
            guard vvvvRegister < 8 else { throw .undefined }
            append(.mask, 8, vvvvRegister)
        case .Kr: try maskOrMemory(0)
        case .KrMb: try maskOrMemory(1)
        case .KrMw: try maskOrMemory(2)
        case .KrMd: try maskOrMemory(4)
        case .KrMq: try maskOrMemory(8)

        case .Tg:
            guard extendReg == 0 else { throw .undefined }
            append(.tile, 0, instruction.modRMReg)
        case .Tr:
            guard isRegister, extendBase == 0 else { throw .undefined }
            append(.tile, 0, instruction.modRM & 7)
        case .Tv:
            usesVvvv = true
            guard vvvv < 8 else { throw .undefined }
            append(.tile, 0, vvvv)
        case .Mtile:
            guard !isRegister, instruction.modRM & 7 == 4 else { throw .undefined }
            append(.memory, 0, 0)

        case .Zb: generalByte(instruction.opcode & 7 | extendBase)
        case .Zv: append(.general, size, instruction.opcode & 7 | extendBase)
        case .AL: append(.general, 1, 0)
        case .CL: append(.general, 1, 1)
        case .DX: append(.general, 2, 2)
        case .fixedAX: append(.general, 2, 0)
        case .fixedEAX: append(.general, 4, 0)
        case .fixedECX: append(.general, 4, 1)
        case .fixedEDX: append(.general, 4, 2)
        case .fixedRAX: append(.general, 8, 0)
        case .fixedRCX: append(.general, 8, 1)
        case .fixedRDX: append(.general, 8, 2)
        case .aAX: append(.general, instruction.addressSize, 0)
        case .rAX: append(.general, size, 0)
        case .eAX: append(.general, min(size, 4), 0)
        case .const1:
            instruction.immediate = 1
            append(.immediate, 1, 0)
        case .segES: append(.segment, 2, 0)
        case .segCS: append(.segment, 2, 1)
        case .segSS: append(.segment, 2, 2)
        case .segDS: append(.segment, 2, 3)
        case .segFS: append(.segment, 2, 4)
        case .segGS: append(.segment, 2, 5)
        case .ST0: append(.x87, 10, 0)
        case .STi: append(.x87, 10, instruction.modRM & 7)

        case .Ib:
            instruction.immediate = Int64(try byte(bytes))
            append(.immediate, 1, 0)
        case .sIb: try immediate(1, bytes)
        case .Iw:
            instruction.immediate = try signed(2, bytes) & 0xFFFF
            append(.immediate, 2, 0)
        case .Iz: try immediate(min(size, 4), bytes)
        case .Iv: try immediate(size, bytes)
        case .Ib2:
            instruction.immediate2 = UInt16(try byte(bytes))
            append(.immediate, 1, 0)
        case .Jb: try relative(1, bytes)
        case .Jz: try relative(min(size, 4), bytes)
        case .Ob: try offset(1, bytes)
        case .Ov: try offset(size, bytes)
        case .Ap:
            let wide = min(size, 4)
            instruction.immediate = try signed(wide, bytes) & (wide == 2 ? 0xFFFF : 0xFFFF_FFFF)
            instruction.immediate2 = UInt16(truncatingIfNeeded: try signed(2, bytes))
            append(.farPointer, wide &+ 2, 0)
        }
    }

    private mutating func generalByte(_ number: UInt8) {
        if !hasRex && number & 0xFC == 4 {
            append(.generalHigh, 1, number & 3)
        } else {
            append(.general, 1, number)
        }
    }

    private mutating func general(
        _ size: UInt8, _ number: UInt8
    ) throws(DecodeFailure) {
        if extendRegHigh != 0 { throw .undefined }
        append(.general, size, number, .reg)
    }

    private mutating func generalRM(_ size: UInt8) throws(DecodeFailure) {
        guard isRegister else { throw .undefined }
        append(.general, size, rm, .rm)
    }

    private mutating func generalOrMemory(_ size: UInt8, memory: UInt8? = nil) {
        if !isRegister {
            append(.memory, memory ?? size, 0)
        } else if size == 1 {
            generalByte(rm)
        } else {
            append(.general, size, rm, .rm)
        }
    }

    private mutating func memory(_ size: UInt8) throws(DecodeFailure) {
        if isRegister { throw .undefined }
        append(.memory, size, 0)
    }

    private mutating func mmxOrMemory(_ size: UInt8) {
        if isRegister {
            append(.mmx, 8, instruction.modRM & 7)
        } else {
            append(.memory, size, 0)
        }
    }

    private mutating func vectorReg(_ size: UInt8) {
        append(.vector, size, reg | extendRegHigh, .reg)
    }

    private mutating func vectorVvvv(_ size: UInt8) {
        usesVvvv = true
        append(.vector, size, vvvvRegister | extendVvvvHigh, .vvvv)
    }

    private mutating func vectorImmediate(
        _ size: UInt8, _ bytes: Span<UInt8>
    ) throws(DecodeFailure) {
        let value = try byte(bytes)
        instruction.immediate = Int64(value & 15)
        append(.vector, size, is64 ? value >> 4 : value >> 4 & 7, .immediate)
    }

    private mutating func vectorOrMemory(_ size: UInt8, memory: UInt8) {
        if isRegister {
            append(.vector, size, vectorRM, .rm)
        } else {
            append(.memory, memory, 0)
        }
    }

    private mutating func vectorRegister(_ size: UInt8) throws(DecodeFailure) {
        guard isRegister else { throw .undefined }
        append(.vector, size, vectorRM, .rm)
    }

    private mutating func maskOrMemory(_ size: UInt8) throws(DecodeFailure) {
        if isRegister {
            append(.mask, 8, instruction.modRM & 7)
        } else {
            guard size != 0 else { throw .undefined }
            append(.memory, size, 0)
        }
    }

    private mutating func immediate(
        _ size: UInt8, _ bytes: Span<UInt8>
    ) throws(DecodeFailure) {
        instruction.immediate = try signed(size, bytes)
        append(.immediate, size, 0)
    }

    private mutating func relative(
        _ size: UInt8, _ bytes: Span<UInt8>
    ) throws(DecodeFailure) {
        instruction.immediate = try signed(size, bytes)
        append(.relative, size, 0)
    }

    /// MOV's absolute address, as wide as the address size.
    private mutating func offset(_ size: UInt8, _ bytes: Span<UInt8>) throws(DecodeFailure) {
        instruction.memory.displacement = try signed(instruction.addressSize, bytes)
        setSegment(isStack: false)
        append(.memory, size, 0)
    }
}
