// Leaf instructions with VEX, but for those that access memory element by element.

/// A stub, as LeafAssembler+VEX writes it.
private typealias Stub = @convention(c) (UnsafeMutableRawPointer) -> Void

// SAFETY: as in CPU+Leaf.swift; a stub touches its frame only.
extension CPU {
    func vex(
        _ descriptor: LeafDescriptor, _ reg: UInt8, _ rm: UInt8, _ others: UInt8,
        _ address: UInt64
    ) throws(Fault) {
        let inputs = descriptor.vex.inputs
        var frame = VectorFrame()
        if inputs.contains(.memory) {
            frame.rm = try loadVector(address, descriptor.size)
        } else if inputs.contains(.rm) {
            frame.rm = ymm(rm)
        }
        if inputs.contains(.reg) { frame.reg = ymm(reg) }
        if inputs.contains(.vvvv) { frame.vvvv = ymm(others & 15) }
        if inputs.contains(.fourth) { frame.fourth = ymm(others >> 4) }
        if inputs.contains(.general) { frame.rax = self[rm] }
        if inputs.contains(.lengths) {
            frame.rax = self[Register.rax]
            frame.rdx = self[Register.rdx]
        }
        if descriptor.flags.contains(.mxcsr) {
            // VCVTPS2PH: without the store there are no flags.
            if descriptor.vex.result == .memory {
                try probeWrite(address, size: Int(descriptor.size))
            }
            try callRounding(descriptor, &frame)
        } else {
            call(descriptor, &frame)
        }
        switch descriptor.vex.result {
        case .none: break
        case .reg: setYMM(reg, frame.reg)
        case .rm: setYMM(rm, frame.rm)
        case .vvvv: setYMM(others & 15, frame.vvvv)
        case .first: setYMM(0, frame.fourth)
        case .generalReg: writeGeneral(reg, frame.rax, size: descriptor.generalSize)
        case .generalRM: writeGeneral(rm, frame.rax, size: descriptor.generalSize)
        case .count: writeGeneral(Register.rcx, frame.rcxOut, size: 4)
        case .memory: try storeVector(address, descriptor.size, frame.rm)
        }
        if descriptor.flags.contains(.flags) {
            setArithmeticFlags(frame.flagsOut & RFLAGS.arithmetic)
        }
    }

    /// ANDN and its like.
    func vexGeneral(
        _ descriptor: LeafDescriptor, _ reg: UInt8, _ rm: UInt8, _ others: UInt8,
        _ address: UInt64
    ) throws(Fault) {
        var frame = VectorFrame()
        frame.rm[0] =
            descriptor.flags.contains(.memory)
            ? try loadSized(address, size: descriptor.size) : self[rm]
        frame.vvvv[0] = self[others & 15]
        frame.rdx = self[Register.rdx]
        call(descriptor, &frame)
        let size = descriptor.generalSize
        switch descriptor.vex.result {
        // Both; if they are the same register, the upper half stays.
        case .vvvv:
            writeGeneral(others & 15, frame.vvvv[0], size: size)
            writeGeneral(reg, frame.reg[0], size: size)
        // The group with BLSR and the like.
        case .none: writeGeneral(others & 15, frame.vvvv[0], size: size)
        default: writeGeneral(reg, frame.reg[0], size: size)
        }
        if descriptor.flags.contains(.flags) {
            setArithmeticFlags(frame.flagsOut & RFLAGS.arithmetic)
        }
    }

    private func call(_ descriptor: LeafDescriptor, _ frame: inout VectorFrame) {
        let stub = unsafe unsafeBitCast(descriptor.stub, to: Stub.self)
        unsafe withUnsafeMutablePointer(to: &frame) { unsafe stub(UnsafeMutableRawPointer($0)) }
    }

    /// As for instructions without VEX (CPU+LeafVector.swift).
    private func callRounding(
        _ descriptor: LeafDescriptor, _ frame: inout VectorFrame
    ) throws(Fault) {
        let guest = mxcsr
        let control = guest & ~MXCSR.flags | MXCSR.masks
        frame.mxcsrIn = control
        if guest & MXCSR.masks == MXCSR.masks {
            call(descriptor, &frame)
            mxcsr = guest | frame.mxcsrOut & MXCSR.flags
            return
        }
        var tiny: UInt32 = 0
        if guest & (MXCSR.underflow << 7) == 0 {
            var probe = frame
            probe.mxcsrIn = control | MXCSR.flushToZero
            call(descriptor, &probe)
            tiny = probe.mxcsrOut & MXCSR.underflow
            frame.mxcsrIn = control & ~MXCSR.flushToZero
        }
        call(descriptor, &frame)
        try raise(frame.mxcsrOut & MXCSR.flags | tiny)
    }

    // MARK: Memory operands

    /// Reads a memory operand of up to 32 bytes; bytes beyond it are zero.
    private func loadVector(_ address: UInt64, _ size: UInt8) throws(Fault) -> VectorFrame.YMM {
        let low = try loadOperand(address, min(size, 16))
        guard size == 32 else { return VectorFrame.YMM(low[0], low[1], 0, 0) }
        let high = try loadOperand(address &+ 16, 16)
        return VectorFrame.YMM(low[0], low[1], high[0], high[1])
    }

    /// Writes the low `size` bytes of a value; nothing is written if any of it faults.
    private func storeVector(
        _ address: UInt64, _ size: UInt8, _ value: VectorFrame.YMM
    ) throws(Fault) {
        if size == 32 {
            if unsafe writableHost(address, size: 32) == nil {
                try probeWrite(address, size: 32)
            }
            try storeOperand(address &+ 16, 16, value.highHalf)
        }
        try storeOperand(address, min(size, 16), value.lowHalf)
    }

    // MARK: YMM registers

    /// Where the upper half of YMM register `number` lies.
    @inline(__always)
    func upperHalf(_ number: UInt8) -> UnsafeMutableRawPointer {
        // SAFETY: part of the state, 16 bytes for each of 16 registers.
        unsafe UnsafeMutableRawPointer(state)
            + (HostState.upperHalvesOffset + Int(number & 15) * 16)
    }

    func ymm(_ number: UInt8) -> VectorFrame.YMM {
        let low = unsafe xmm(number).load(as: SIMD2<UInt64>.self)
        let high =
            unsafe fields.hasUpperHalves == 0
            ? SIMD2<UInt64>() : upperHalf(number).loadUnaligned(as: SIMD2<UInt64>.self)
        return VectorFrame.YMM(lowHalf: low, highHalf: high)
    }

    func setYMM(_ number: UInt8, _ value: VectorFrame.YMM) {
        unsafe xmm(number).storeBytes(of: value.lowHalf, as: SIMD2<UInt64>.self)
        if fields.hasUpperHalves == 0 {
            if value.highHalf == SIMD2<UInt64>() { return }
            clearUpperHalves()
            fields.hasUpperHalves = 1
        }
        unsafe upperHalf(number).storeBytes(of: value.highHalf, as: SIMD2<UInt64>.self)
    }

    func clearUpperHalves() { fields.upperHalves = InlineArray(repeating: 0) }

    /// VZEROUPPER and VZEROALL. Outside 64-bit mode there are 8 registers.
    func zeroUpperHalves(all: Bool) {
        for number in 0..<UInt8(is64Bit ? 16 : 8) {
            if all { unsafe xmm(number).storeBytes(of: SIMD2<UInt64>(), as: SIMD2<UInt64>.self) }
            if fields.hasUpperHalves != 0 && !is64Bit {
                unsafe upperHalf(number).storeBytes(
                    of: SIMD2<UInt64>(), as: SIMD2<UInt64>.self)
            }
        }
        if is64Bit { fields.hasUpperHalves = 0 }
    }
}
