// Executes leaf instructions: checks, operand fetch, stub, results.

/// A stub, as LeafAssembler writes it.
private typealias Stub =
    @convention(c) (
        UnsafeMutableRawPointer, UnsafeRawPointer, UnsafeMutableRawPointer,
        UnsafeMutableRawPointer
    ) -> Void

/// Offsets in the FXSAVE image (SDM volume 1, table 10-2).
enum FXImage {
    static let controlWord = 0
    static let statusWord = 2
    static let tags = 4
    static let opcode = 6
    static let instructionPointer = 8
    static let dataPointer = 16
    static let mxcsr = 24
    static let mxcsrMask = 28
    static let st0 = 32
    static let xmm0 = 160
    static let supportedMXCSR: UInt32 = 0xFFFF
}

// SAFETY for the whole extension: image offsets are constants inside its 512 bytes, register
// numbers are below 16 (the decoder's promise), frames live on this thread's stack, and a stub
// touches what its descriptor says: 16 bytes at each operand and the image.
extension CPU {
    /// Executes one leaf instruction.
    /// - Parameters:
    ///   - address: the linear address of the memory operand, if there is one.
    ///   - rip: the instruction's own address.
    @inline(never)
    func executeLeaf(
        _ leaf: UnsafePointer<LeafDescriptor>, destination: UInt8, source: UInt8,
        address: UInt64, rip: UInt64
    ) throws(Fault) {
        let descriptor = unsafe leaf.pointee
        try checkAvailable(descriptor)
        switch descriptor.kind {
        case .loadPart, .loadZero, .storePart:
            try moveVector(descriptor, destination, source, address)
        case .vector: try vector(descriptor, destination, source, address)
        case .vectorToGeneral: try vectorToGeneral(descriptor, destination, source, address)
        case .generalToVector: try generalToVector(descriptor, destination, source, address)
        case .extract: try extract(descriptor, destination, source, address)
        case .string: try compareStrings(descriptor, destination, source, address)
        case .image: try onImage(descriptor, destination, source, address, rip)
        default: try stateInstruction(descriptor, destination, source, address, rip)
        }
    }

    /// #UD and #NM by CR0 and CR4 (SDM volume 3, sections 2.5, 13.1), pending x87 exceptions.
    @inline(__always)
    private func checkAvailable(_ descriptor: LeafDescriptor) throws(Fault) {
        let cr0 = unsafe state.pointee.cr0
        let emulate = cr0 & 4 != 0
        let taskSwitched = cr0 & 8 != 0
        if descriptor.flags.contains(.sse) {
            if emulate || (unsafe state.pointee.cr4) & 0x200 == 0 { throw .invalidOpcode }
            if taskSwitched { throw .deviceNotAvailable }
        } else {
            try checkX87(descriptor, emulate: emulate, taskSwitched: taskSwitched)
        }
    }

    private func checkX87(
        _ descriptor: LeafDescriptor, emulate: Bool, taskSwitched: Bool
    ) throws(Fault) {
        switch descriptor.kind {
        case .fwait:
            if taskSwitched, (unsafe state.pointee.cr0) & 2 != 0 { throw .deviceNotAvailable }
        case .fxsave, .fxrstor:
            if emulate || taskSwitched { throw .deviceNotAvailable }
            return
        default:
            if descriptor.flags.contains(.mmx), emulate { throw .invalidOpcode }
            if emulate || taskSwitched { throw .deviceNotAvailable }
        }
        switch descriptor.kind {
        case .fninit, .fnclex, .fnstcw, .fnstsw, .fnstenv, .fnsave: break
        default: if statusWord & 0x80 != 0 { throw .floatingPoint }
        }
    }

    @inline(__always)
    var statusWord: UInt16 {
        get { unsafe fxImage.load(fromByteOffset: FXImage.statusWord, as: UInt16.self) }
        nonmutating set {
            unsafe fxImage.storeBytes(
                of: newValue, toByteOffset: FXImage.statusWord, as: UInt16.self)
        }
    }

    @inline(__always)
    var mxcsr: UInt32 {
        get { unsafe fxImage.load(fromByteOffset: FXImage.mxcsr, as: UInt32.self) }
        nonmutating set {
            unsafe fxImage.storeBytes(of: newValue, toByteOffset: FXImage.mxcsr, as: UInt32.self)
        }
    }

    /// Where XMM register `number` lies.
    @inline(__always)
    func xmm(_ number: UInt8) -> UnsafeMutableRawPointer {
        unsafe fxImage + (FXImage.xmm0 + Int(number & 15) * 16)
    }

    @inline(__always)
    private func general(_ number: UInt8) -> UnsafeMutableRawPointer {
        unsafe UnsafeMutableRawPointer(state)
            + MemoryLayout<VCPUState>.offset(of: \VCPUState.registers).unsafelyUnwrapped
            + Int(number & 15) * 8
    }

    @inline(__always)
    private func call(
        _ descriptor: LeafDescriptor, _ destination: UnsafeMutableRawPointer,
        _ source: UnsafeRawPointer, _ frame: UnsafeMutablePointer<LeafFrame>
    ) {
        let stub = unsafe unsafeBitCast(descriptor.stub, to: Stub.self)
        unsafe stub(destination, source, fxImage, UnsafeMutableRawPointer(frame))
    }

    // MARK: Memory operands

    @inline(__always)
    private func checkAlignment(_ descriptor: LeafDescriptor, _ address: UInt64) throws(Fault) {
        if descriptor.flags.contains(.aligned), address & 15 != 0 { throw .generalProtection(0) }
    }

    /// Reads a memory operand of up to 16 bytes; bytes beyond it are zero.
    @inline(__always)
    private func loadOperand(_ address: UInt64, _ size: UInt8) throws(Fault) -> SIMD2<UInt64> {
        switch size {
        case 16: SIMD2(try load(address, as: UInt64.self), try load(address &+ 8, as: UInt64.self))
        case 8: SIMD2(try load(address, as: UInt64.self), 0)
        case 4: SIMD2(UInt64(try load(address, as: UInt32.self)), 0)
        case 2: SIMD2(UInt64(try load(address, as: UInt16.self)), 0)
        case 1: SIMD2(UInt64(try load(address, as: UInt8.self)), 0)
        default:
            SIMD2(
                try load(address, as: UInt64.self), UInt64(try load(address &+ 8, as: UInt16.self)))
        }
    }

    /// Writes the low `size` bytes of a value; nothing is written if any of it faults.
    @inline(__always)
    private func storeOperand(
        _ address: UInt64, _ size: UInt8, _ value: SIMD2<UInt64>
    ) throws(Fault) {
        switch size {
        case 16:
            if unsafe writableHost(address, size: 16) == nil {
                try probeWrite(address, size: 16)
            }
            try store(address, value[0])
            try store(address &+ 8, value[1])
        case 8: try store(address, value[0])
        case 4: try store(address, UInt32(truncatingIfNeeded: value[0]))
        case 2: try store(address, UInt16(truncatingIfNeeded: value[0]))
        case 1: try store(address, UInt8(truncatingIfNeeded: value[0]))
        default:
            try probeWrite(address, size: 10)
            try store(address, value[0])
            try store(address &+ 8, UInt16(truncatingIfNeeded: value[1]))
        }
    }

    // MARK: Moves

    @inline(__always)
    private func moveVector(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64
    ) throws(Fault) {
        try checkAlignment(descriptor, address)
        let offset = Int(descriptor.offset)
        if descriptor.kind == .storePart {
            let register = unsafe xmm(source) + offset
            let low = unsafe register.load(as: UInt64.self)
            let high = unsafe descriptor.size == 16 ? (register + 8).load(as: UInt64.self) : 0
            try storeOperand(address, descriptor.size, SIMD2(low, high))
            return
        }
        let value = try loadOperand(address, descriptor.size)
        let register = unsafe xmm(destination)
        if descriptor.kind == .loadZero || descriptor.size == 16 {
            unsafe register.storeBytes(of: value[0], as: UInt64.self)
            unsafe register.storeBytes(of: value[1], toByteOffset: 8, as: UInt64.self)
        } else {
            unsafe register.storeBytes(of: value[0], toByteOffset: offset, as: UInt64.self)
        }
    }

    // MARK: Vector instructions

    /// Sets up MXCSR for a stub: the guest's rounding, all exceptions masked, no flags.
    @inline(__always)
    private func prepareMXCSR(_ frame: inout LeafFrame) {
        frame.mxcsrIn = mxcsr & ~0x3F | LeafFrame.defaultMXCSR
    }

    /// Takes over the exception flags; #XM if the guest unmasked one of them.
    @inline(__always)
    private func finishMXCSR(_ frame: LeafFrame) throws(Fault) {
        let raised = frame.mxcsrOut & 0x3F
        guard raised != 0 else { return }
        let guest = mxcsr
        mxcsr = guest | raised
        if raised & ~(guest >> 7) & 0x3F != 0 { try raiseSIMD() }
    }

    private func raiseSIMD() throws(Fault) {
        // CR4.OSXMMEXCPT
        if unsafe state.pointee.cr4 & 0x400 != 0 { throw .simdFloatingPoint }
        throw .invalidOpcode
    }

    @inline(__always)
    private func takeFlags(_ frame: LeafFrame) {
        setArithmeticFlags(frame.flagsOut & RFLAGS.arithmetic)
    }

    @inline(__always)
    private func vector(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        var input = unsafe UnsafeRawPointer(xmm(source))
        if descriptor.flags.contains(.memory) {
            try checkAlignment(descriptor, address)
            frame.operand = try loadOperand(address, descriptor.size)
        }
        if descriptor.flags.contains(.mxcsr) {
            prepareMXCSR(&frame)
            frame.result = unsafe xmm(destination).load(as: SIMD2<UInt64>.self)
        }
        try unsafe withUnsafeMutablePointer(to: &frame) { frame throws(Fault) in
            let bytes = UnsafeMutableRawPointer(frame)
            if descriptor.flags.contains(.memory) {
                unsafe input = UnsafeRawPointer(bytes + Self.operandOffset)
            }
            guard descriptor.flags.contains(.mxcsr) else {
                unsafe call(descriptor, xmm(destination), input, frame)
                return
            }
            // The result is committed only when no unmasked exception came up.
            unsafe call(descriptor, bytes + Self.resultOffset, input, frame)
            try finishMXCSR(unsafe frame.pointee)
            if !descriptor.flags.contains(.flags) {
                unsafe xmm(destination).storeBytes(
                    of: frame.pointee.result, as: SIMD2<UInt64>.self)
            }
        }
        if descriptor.flags.contains(.flags) { takeFlags(frame) }
    }

    private static var operandOffset: Int { 80 }
    private static var resultOffset: Int { 96 }

    private func vectorToGeneral(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        if descriptor.flags.contains(.memory) {
            try checkAlignment(descriptor, address)
            frame.operand = try loadOperand(address, descriptor.size)
        } else {
            frame.operand = unsafe xmm(source).load(as: SIMD2<UInt64>.self)
        }
        prepareMXCSR(&frame)
        unsafe withUnsafeMutablePointer(to: &frame) { frame in
            let bytes = UnsafeMutableRawPointer(frame)
            unsafe call(descriptor, bytes + Self.resultOffset, bytes + Self.operandOffset, frame)
        }
        if descriptor.flags.contains(.mxcsr) { try finishMXCSR(frame) }
        writeGeneral(destination, frame.result[0], size: descriptor.generalSize)
    }

    /// Writes a general register as instructions do: 32 bits clear the upper half.
    private func writeGeneral(_ register: UInt8, _ value: UInt64, size: UInt8) {
        switch size {
        case 8: self[register] = value
        case 2: self[register] = self[register] & ~0xFFFF | value & 0xFFFF
        default: self[register] = value & 0xFFFF_FFFF
        }
    }

    private func generalToVector(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        if descriptor.flags.contains(.memory) {
            frame.operand = try loadOperand(address, descriptor.size)
        } else {
            frame.operand[0] = self[source]
        }
        frame.result = unsafe xmm(destination).load(as: SIMD2<UInt64>.self)
        prepareMXCSR(&frame)
        unsafe withUnsafeMutablePointer(to: &frame) { frame in
            let bytes = UnsafeMutableRawPointer(frame)
            unsafe call(descriptor, bytes + Self.resultOffset, bytes + Self.operandOffset, frame)
        }
        if descriptor.flags.contains(.mxcsr) { try finishMXCSR(frame) }
        unsafe xmm(destination).storeBytes(of: frame.result, as: SIMD2<UInt64>.self)
    }

    private func extract(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        frame.operand = unsafe xmm(source).load(as: SIMD2<UInt64>.self)
        unsafe withUnsafeMutablePointer(to: &frame) { frame in
            let bytes = UnsafeMutableRawPointer(frame)
            unsafe call(descriptor, bytes + Self.resultOffset, bytes + Self.operandOffset, frame)
        }
        if descriptor.flags.contains(.writesMemory) {
            try storeOperand(address, descriptor.size, frame.result)
        } else {
            // The upper bits are clear whatever the part's size (SDM, PEXTRB).
            writeGeneral(destination, frame.result[0], size: descriptor.generalSize == 8 ? 8 : 4)
        }
    }

    private func compareStrings(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        frame.rax = self[0]
        frame.rdx = self[2]
        if descriptor.flags.contains(.memory) {
            frame.operand = try loadOperand(address, 16)
        } else {
            frame.operand = unsafe xmm(source).load(as: SIMD2<UInt64>.self)
        }
        unsafe withUnsafeMutablePointer(to: &frame) { frame in
            let bytes = UnsafeMutableRawPointer(frame)
            unsafe call(descriptor, xmm(destination), bytes + Self.operandOffset, frame)
        }
        takeFlags(frame)
        if descriptor.flags.contains(.indexResult) {
            self[1] = frame.rcxOut & 0xFFFF_FFFF
        } else {
            unsafe xmm(0).storeBytes(of: frame.xmm0Out, as: (UInt64, UInt64).self)
        }
    }

    // MARK: x87 and MMX

    private func onImage(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64,
        _ rip: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        if descriptor.flags.contains(.writesMemory) {
            try probeWrite(address, size: Int(descriptor.size))
        } else if descriptor.flags.contains(.memory) {
            try checkAlignment(descriptor, address)
            frame.operand = try loadOperand(address, descriptor.size)
        } else if descriptor.flags.contains(.generalSource) {
            frame.operand[0] = self[source]
        }
        frame.flagsIn = arithmeticFlags
        let guestMXCSR = mxcsr
        mxcsr = guestMXCSR & ~0x3F | LeafFrame.defaultMXCSR
        let pointers = savedPointers
        unsafe withUnsafeMutablePointer(to: &frame) { frame in
            let bytes = UnsafeMutableRawPointer(frame)
            unsafe call(descriptor, bytes + Self.resultOffset, bytes + Self.operandOffset, frame)
        }
        frame.mxcsrOut = mxcsr
        mxcsr = guestMXCSR
        savedPointers = pointers
        if descriptor.flags.contains(.setsPointers) {
            setPointers(descriptor, address: address, rip: rip)
        }
        if descriptor.flags.contains(.mxcsr) { try finishMXCSR(frame) }
        if descriptor.flags.contains(.flags) { takeFlags(frame) }
        if descriptor.flags.contains(.writesMemory) {
            try storeOperand(address, descriptor.size, frame.result)
        }
        if descriptor.flags.contains(.writesGeneral) {
            writeGeneral(destination, frame.result[0], size: descriptor.generalSize)
        }
    }

    /// FOP, FIP and FDP, which a stub's FXSAVE would replace by the host's.
    private var savedPointers: (UInt16, UInt64, UInt64) {
        get {
            unsafe (
                fxImage.load(fromByteOffset: FXImage.opcode, as: UInt16.self),
                fxImage.load(fromByteOffset: FXImage.instructionPointer, as: UInt64.self),
                fxImage.load(fromByteOffset: FXImage.dataPointer, as: UInt64.self)
            )
        }
        nonmutating set {
            unsafe fxImage.storeBytes(of: newValue.0, toByteOffset: FXImage.opcode, as: UInt16.self)
            unsafe fxImage.storeBytes(
                of: newValue.1, toByteOffset: FXImage.instructionPointer, as: UInt64.self)
            unsafe fxImage.storeBytes(
                of: newValue.2, toByteOffset: FXImage.dataPointer, as: UInt64.self)
        }
    }

    private func setPointers(_ descriptor: LeafDescriptor, address: UInt64, rip: UInt64) {
        unsafe fxImage.storeBytes(
            of: descriptor.opcode, toByteOffset: FXImage.opcode, as: UInt16.self)
        unsafe fxImage.storeBytes(
            of: rip, toByteOffset: FXImage.instructionPointer, as: UInt64.self)
        if descriptor.flags.contains(.memory) {
            unsafe fxImage.storeBytes(
                of: address, toByteOffset: FXImage.dataPointer, as: UInt64.self)
        }
    }
}
