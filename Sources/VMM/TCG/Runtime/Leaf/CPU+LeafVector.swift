// Leaf instructions on XMM registers.
//
// Stubs run with all exceptions masked, because a trap in a stub would be the host's. With
// everything masked in the guest too, that is all there is to it. Otherwise the flags of the
// masked run tell what would have happened: say the guest unmasked ZE and divides by zero, then ZE
// comes up, the result is thrown away, and #XM is raised. See `callUnmasked` for the two cases
// where it is not so simple.

/// Bits of MXCSR (SDM volume 1, section 10.2.3).
enum MXCSR {
    /// IE, DE, ZE, OE, UE, PE; their masks are 7 bits further up.
    static let flags: UInt32 = 0x3F
    static let masks: UInt32 = 0x1F80
    /// IE, DE and ZE, which operands raise, not results.
    static let operandFlags: UInt32 = 0x07
    static let underflow: UInt32 = 1 << 4
    static let flushToZero: UInt32 = 1 << 15
}

// SAFETY: as in CPU+Leaf.swift.
extension CPU {
    // MARK: Exceptions

    /// Runs a stub that uses MXCSR, takes over the flags, and raises #XM where the guest wants it:
    /// the caller commits the result afterwards. The destination is the frame's result.
    @inline(__always)
    private func callRounding(
        _ descriptor: LeafDescriptor, _ source: UnsafeRawPointer?, _ frame: inout LeafFrame
    ) throws(Fault) {
        let guest = mxcsr
        guard guest & MXCSR.masks == MXCSR.masks else {
            return unsafe try callUnmasked(descriptor, source, &frame)
        }
        frame.mxcsrIn = guest & ~MXCSR.flags
        unsafe call(descriptor, nil, source, &frame)
        let raised = frame.mxcsrOut & MXCSR.flags
        if raised != 0 { mxcsr = guest | raised }
    }

    /// The same where some exception is not masked. Unmasked underflow is raised by every tiny
    /// result, masked underflow by inexact ones only; but with flush-to-zero, whatever is flushed
    /// raises it, so that a first run tells.
    // FIXME: PE after unmasked overflow or underflow is the masked result's, which is inexact more
    // often; and DPPS and DPPD stop at the multiplications that raise an unmasked exception.
    @inline(never)
    private func callUnmasked(
        _ descriptor: LeafDescriptor, _ source: UnsafeRawPointer?, _ frame: inout LeafFrame
    ) throws(Fault) {
        let control = mxcsr & ~MXCSR.flags | MXCSR.masks
        var tiny: UInt32 = 0
        frame.mxcsrIn = control
        if mxcsr & (MXCSR.underflow << 7) == 0 {
            let destination = frame.result
            frame.mxcsrIn = control | MXCSR.flushToZero
            unsafe call(descriptor, nil, source, &frame)
            tiny = frame.mxcsrOut & MXCSR.underflow
            frame.result = destination
            // Without the mask there is no flushing.
            frame.mxcsrIn = control & ~MXCSR.flushToZero
        }
        unsafe call(descriptor, nil, source, &frame)
        try raise(frame.mxcsrOut & MXCSR.flags | tiny)
    }

    /// Sets exception flags; #XM if the guest unmasked one of them. Where an operand raises one,
    /// results are not looked at (SDM volume 1, section 11.5.4).
    func raise(_ raised: UInt32) throws(Fault) {
        var raised = raised
        let unmasked = ~(mxcsr >> 7) & MXCSR.flags
        if raised & unmasked & MXCSR.operandFlags != 0 { raised &= MXCSR.operandFlags }
        mxcsr |= raised
        guard raised & unmasked != 0 else { return }
        let isExpected = fields.cr4 & CR4.osxmmexcpt != 0
        throw isExpected ? .simdFloatingPoint : .invalidOpcode
    }

    // MARK: By kind

    func vector(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        var input: UnsafeRawPointer?
        if descriptor.flags.contains(.memory) {
            frame.operand = try loadOperand(address, descriptor.size)
        } else {
            unsafe input = UnsafeRawPointer(xmm(source))
        }
        if descriptor.flags.contains(.mxcsr) {
            frame.result = unsafe xmm(destination).load(as: SIMD2<UInt64>.self)
            unsafe try callRounding(descriptor, input, &frame)
            if !descriptor.flags.contains(.flags) {
                unsafe xmm(destination).storeBytes(of: frame.result, as: SIMD2<UInt64>.self)
            }
        } else {
            unsafe call(descriptor, xmm(destination), input, &frame)
        }
        if descriptor.flags.contains(.flags) { takeFlags(frame) }
    }

    func vectorToGeneral(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        if descriptor.flags.contains(.memory) {
            frame.operand = try loadOperand(address, descriptor.size)
        } else {
            frame.operand = unsafe xmm(source).load(as: SIMD2<UInt64>.self)
        }
        try callFrame(descriptor, &frame)
        writeGeneral(destination, frame.result[0], size: descriptor.generalSize)
    }

    func generalToVector(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        if descriptor.flags.contains(.memory) {
            frame.operand = try loadOperand(address, descriptor.size)
        } else {
            frame.operand[0] = self[source]
        }
        frame.result = unsafe xmm(destination).load(as: SIMD2<UInt64>.self)
        try callFrame(descriptor, &frame)
        unsafe xmm(destination).storeBytes(of: frame.result, as: SIMD2<UInt64>.self)
    }

    /// Both operands are in the frame.
    @inline(__always)
    private func callFrame(_ descriptor: LeafDescriptor, _ frame: inout LeafFrame) throws(Fault) {
        if descriptor.flags.contains(.mxcsr) {
            unsafe try callRounding(descriptor, nil, &frame)
        } else {
            unsafe call(descriptor, nil, nil, &frame)
        }
    }

    func extract(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        unsafe call(descriptor, nil, UnsafeRawPointer(xmm(source)), &frame)
        if descriptor.flags.contains(.writesMemory) {
            try storeOperand(address, descriptor.size, frame.result)
        } else {
            // The upper bits are clear whatever the part's size (SDM, PEXTRB).
            writeGeneral(destination, frame.result[0], size: descriptor.generalSize == 8 ? 8 : 4)
        }
    }

    func compareStrings(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        frame.rax = self[Register.rax]
        frame.rdx = self[Register.rdx]
        if descriptor.flags.contains(.memory) {
            frame.operand = try loadOperand(address, 16)
        } else {
            frame.operand = unsafe xmm(source).load(as: SIMD2<UInt64>.self)
        }
        unsafe call(descriptor, xmm(destination), nil, &frame)
        takeFlags(frame)
        if descriptor.flags.contains(.indexResult) {
            self[Register.rcx] = frame.rcxOut & 0xFFFF_FFFF
        } else {
            unsafe xmm(0).storeBytes(of: frame.xmm0Out, as: (UInt64, UInt64).self)
        }
    }

    // MARK: Results

    @inline(__always)
    func takeFlags(_ frame: LeafFrame) {
        setArithmeticFlags(frame.flagsOut & RFLAGS.arithmetic)
    }

    /// Writes a general register as instructions do: 32 bits clear the upper half.
    func writeGeneral(_ register: UInt8, _ value: UInt64, size: UInt8) {
        switch size {
        case 8: self[register] = value
        case 2: self[register] = self[register] & ~0xFFFF | value & 0xFFFF
        default: self[register] = value & 0xFFFF_FFFF
        }
    }
}
