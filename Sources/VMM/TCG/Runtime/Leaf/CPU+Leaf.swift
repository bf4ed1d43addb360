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
    static let st0 = 32
    static let xmm0 = 160
    /// What MXCSR can hold: without AMD's bit 17, which goes with CPUID's bit for misaligned SSE,
    /// which is not shown.
    static let supportedMXCSR: UInt32 = 0xFFFF
    /// That bit. Another provider's guest may have it, and its mask of MXCSR says so. It is kept
    /// here, but misaligned operands are refused all the same.
    static let misalignedSSE: UInt32 = 1 << 17
}

/// Bits of the x87 status word (SDM volume 1, section 8.1.3). The exception flags are bits 0-5, and
/// the same bits of the control word mask them.
enum X87Status {
    static let exceptions: UInt16 = 0x3F
    /// The exceptions that keep a store from being made: invalid, overflow, underflow.
    static let preventingStores: UInt16 = 0x19
    /// ES: an exception that is not masked waits for the next instruction.
    static let errorSummary: UInt16 = 0x80
}

// SAFETY for the whole extension: image offsets are constants inside its 512 bytes, register
// numbers are below 16 (the decoder's promise), frames live on this thread's stack, and a stub
// touches what its descriptor says: 16 bytes at each operand and the image.
extension CPU {
    /// The instructions behind `OperationCode.leaf`; `rip` is the instruction's own.
    @inline(never)
    func leaf(_ op: OperationPointer, rip: UInt64) throws(Fault) {
        // SAFETY: the lowering stored a descriptor's address, and those are never freed.
        guard
            let descriptor = unsafe UnsafePointer<LeafDescriptor>(
                bitPattern: Int(truncatingIfNeeded: op.immediate))
        else { throw .invalidOpcode }
        try checkAvailable(unsafe descriptor.pointee)
        switch unsafe descriptor.pointee.kind {
        case .gather: return try gather(op, unsafe descriptor.pointee)
        case .maskedMove: return try maskedMove(op, unsafe descriptor.pointee)
        default: break
        }
        var address: UInt64 = 0
        if !op.form.isDisjoint(with: .hasMemory) {
            if unsafe descriptor.pointee.flags.contains(.aligned) {
                try checkAlignment(op, unsafe UInt64(descriptor.pointee.size))
            }
            address = try linearAddress(
                op, size: unsafe descriptor.pointee.memorySize,
                isWrite: op.form.contains(.memoryDestination))
        }
        unsafe try executeLeaf(
            descriptor, destination: op.destination, source: op.source, others: op.detail,
            address: address, rip: rip)
    }

    /// Executes one leaf instruction that is available.
    /// - Parameters:
    ///   - destination: and the two that follow: see `LeafLowering`.
    ///   - address: the linear address of the memory operand, if there is one.
    ///   - rip: the instruction's own address.
    @inline(never)
    func executeLeaf(
        _ leaf: UnsafePointer<LeafDescriptor>, destination: UInt8, source: UInt8,
        others: UInt8 = 0, address: UInt64, rip: UInt64
    ) throws(Fault) {
        let descriptor = unsafe leaf.pointee
        switch descriptor.kind {
        case .loadPart, .loadZero, .storePart:
            try moveVector(descriptor, destination, source, address)
        case .vector: try vector(descriptor, destination, source, address)
        case .vectorToGeneral: try vectorToGeneral(descriptor, destination, source, address)
        case .generalToVector: try generalToVector(descriptor, destination, source, address)
        case .extract: try extract(descriptor, destination, source, address)
        case .string: try compareStrings(descriptor, destination, source, address)
        case .image: try onImage(descriptor, destination, source, address, rip)
        case .vex: try vex(descriptor, destination, source, others, address)
        case .vexGeneral: try vexGeneral(descriptor, destination, source, others, address)
        default: try stateInstruction(descriptor, destination, source, address, rip)
        }
    }

    /// #UD and #NM by CR0 and CR4 (SDM volume 3, sections 2.5, 13.1), pending x87 exceptions.
    @inline(__always)
    private func checkAvailable(_ descriptor: LeafDescriptor) throws(Fault) {
        let cr0 = fields.cr0
        let emulate = cr0 & CR0.em != 0
        let taskSwitched = cr0 & CR0.ts != 0
        if descriptor.flags.contains(.avx) {
            if !isAVXEnabled { throw .invalidOpcode }
            if taskSwitched { throw .deviceNotAvailable }
        } else if descriptor.kind == .vexGeneral {
            return
        } else if descriptor.flags.contains(.sse) {
            if emulate || fields.cr4 & CR4.osfxsr == 0 { throw .invalidOpcode }
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
            if taskSwitched, fields.cr0 & CR0.mp != 0 { throw .deviceNotAvailable }
        case .fxsave, .fxrstor:
            if emulate || taskSwitched { throw .deviceNotAvailable }
            return
        default:
            if descriptor.flags.contains(.mmx), emulate { throw .invalidOpcode }
            if emulate || taskSwitched { throw .deviceNotAvailable }
        }
        switch descriptor.kind {
        case .fninit, .fnclex, .fnstcw, .fnstsw, .fnstenv, .fnsave: break
        // FNENI, FNDISI and FNSETPM do nothing, and do not wait either.
        case .image where descriptor.flags.contains(.x87) && Self.isIdle(descriptor.opcode): break
        default: if statusWord & X87Status.errorSummary != 0 { throw .floatingPoint }
        }
    }

    private static func isIdle(_ opcode: UInt16) -> Bool {
        opcode == 0x3E0 || opcode == 0x3E1 || opcode == 0x3E4
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

    /// Runs the stub. `nil` stands for the frame's own place for an operand or a result.
    @inline(__always)
    func call(
        _ descriptor: LeafDescriptor, _ destination: UnsafeMutableRawPointer?,
        _ source: UnsafeRawPointer?, _ frame: inout LeafFrame
    ) {
        let stub = unsafe unsafeBitCast(descriptor.stub, to: Stub.self)
        let image = unsafe fxImage
        unsafe withUnsafeMutablePointer(to: &frame) { frame in
            let bytes = UnsafeMutableRawPointer(frame)
            unsafe stub(
                destination ?? bytes + LeafFrame.resultOffset,
                source ?? UnsafeRawPointer(bytes + LeafFrame.operandOffset), image, bytes)
        }
    }

    // MARK: Memory operands

    /// Alignment counts before the segment's limit, on Zen at least.
    @inline(__always)
    private func checkAlignment(_ op: OperationPointer, _ size: UInt64) throws(Fault) {
        let address = addressBase(op.segment) &+ effectiveOffset(op)
        if address & (size &- 1) != 0 { throw .generalProtection(0) }
    }

    /// Reads a memory operand of up to 16 bytes; bytes beyond it are zero.
    @inline(__always)
    func loadOperand(_ address: UInt64, _ size: UInt8) throws(Fault) -> SIMD2<UInt64> {
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
    func storeOperand(
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
}
