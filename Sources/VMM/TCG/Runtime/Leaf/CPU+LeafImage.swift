// Leaf instructions on the FXSAVE image: x87 and MMX. The stub loads the image, executes the
// instruction with the guest's own masks, and saves the image. An x87 exception that is not masked
// only sets ES, and the next x87 instruction raises it: `checkAvailable` sees to that before a stub
// could.

// SAFETY: as in CPU+Leaf.swift.
extension CPU {
    func onImage(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64,
        _ rip: UInt64
    ) throws(Fault) {
        var frame = LeafFrame()
        if descriptor.flags.contains(.writesMemory) {
            try probeWrite(address, size: Int(descriptor.size))
        } else if descriptor.flags.contains(.memory) {
            frame.operand = try loadOperand(address, descriptor.size)
        } else if descriptor.flags.contains(.generalSource) {
            frame.operand[0] = self[source]
        }
        frame.flagsIn = arithmeticFlags
        if descriptor.flags.contains(.mxcsr) {
            try callConversion(descriptor, &frame)
        } else {
            callOnImage(descriptor, &frame)
        }
        if descriptor.flags.contains(.setsPointers) {
            setPointers(descriptor, address: address, rip: rip)
        }
        if descriptor.flags.contains(.flags) { takeFlags(frame) }
        // A store that raises an unmasked exception is not made.
        let isPending = statusWord & ~controlWord & X87Status.preventingStores != 0
        if descriptor.flags.contains(.writesMemory), !isPending || descriptor.flags.contains(.mmx) {
            try storeOperand(address, descriptor.size, frame.result)
        }
        if descriptor.flags.contains(.writesGeneral) {
            writeGeneral(destination, frame.result[0], size: descriptor.generalSize)
        }
    }

    /// Runs the stub with SSE's exceptions masked; their flags are `mxcsrOut`.
    private func callOnImage(_ descriptor: LeafDescriptor, _ frame: inout LeafFrame) {
        let guestMXCSR = mxcsr
        mxcsr = guestMXCSR & ~MXCSR.flags | MXCSR.masks
        let pointers = savedPointers
        unsafe call(descriptor, nil, nil, &frame)
        frame.mxcsrOut = mxcsr
        mxcsr = guestMXCSR
        savedPointers = pointers
    }

    /// CVTPS2PI and the like: they raise SSE's exceptions, which leave the destination alone.
    private func callConversion(
        _ descriptor: LeafDescriptor, _ frame: inout LeafFrame
    ) throws(Fault) {
        let before = fxWords
        let usesMMX = descriptor.flags.contains(.mmx)
        // What waits is not for an instruction without MMX registers to raise.
        if !usesMMX { statusWord = 0 }
        callOnImage(descriptor, &frame)
        if !usesMMX {
            var after = fxWords
            for index in 0..<FXImage.xmm0 / 8 { after[index] = before[index] }
            fxWords = after
        }
        do throws(Fault) {
            try raise(frame.mxcsrOut & MXCSR.flags)
        } catch {
            let flags = mxcsr
            fxWords = before
            mxcsr = flags
            // The state changes to MMX all the same, on Zen at least.
            if usesMMX { enterMMX() }
            throw error
        }
    }

    /// The whole image.
    var fxWords: InlineArray<64, UInt64> {
        get { unsafe fxImage.load(as: InlineArray<64, UInt64>.self) }
        nonmutating set {
            unsafe fxImage.storeBytes(of: newValue, as: InlineArray<64, UInt64>.self)
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
