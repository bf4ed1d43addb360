// The instructions that manage x87, MMX and SSE state as a whole (SDM volume 1, sections 8.1,
// 10.5): they only move bytes, so they work on the FXSAVE image in Swift.

// SAFETY: as in CPU+Leaf.swift.
extension CPU {
    func stateInstruction(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8, _ address: UInt64,
        _ rip: UInt64
    ) throws(Fault) {
        switch descriptor.kind {
        case .fxsave: try fxsave(address, isWide: descriptor.operandSize == 8)
        case .fxrstor: try fxrstor(address, isWide: descriptor.operandSize == 8)
        case .ldmxcsr:
            let value = try load(address, as: UInt32.self)
            if value & ~fields.supportedMXCSR != 0 { throw .generalProtection(0) }
            mxcsr = value
        case .stmxcsr: try store(address, mxcsr)
        case .fninit: initialiseX87()
        case .fnclex:
            statusWord &= 0x7F00
        case .fldcw:
            controlWord = try load(address, as: UInt16.self)
            updateErrorSummary()
        case .fnstcw: try store(address, controlWord)
        case .fnstsw:
            if descriptor.flags.contains(.memory) {
                try store(address, statusWord)
            } else {
                self[0] = self[0] & ~0xFFFF | UInt64(statusWord)
            }
        case .fldenv:
            var environment = X87Environment()
            try load(&environment, from: address, descriptor)
            apply(environment)
        case .fnstenv: try fnstenv(address, descriptor)
        case .frstor: try frstor(address, descriptor)
        case .fnsave: try fnsave(address, descriptor)
        case .maskedStore: try maskedStore(descriptor, destination, source)
        case .zeroUpper: zeroUpperHalves(all: descriptor.size == 32)
        default: break
        }
    }

    var controlWord: UInt16 {
        get { unsafe fxImage.load(fromByteOffset: FXImage.controlWord, as: UInt16.self) }
        nonmutating set {
            // Bit 6 reads as one, bits 7 and 13-15 as zero.
            unsafe fxImage.storeBytes(
                of: newValue & 0x1F3F | 0x40, toByteOffset: FXImage.controlWord, as: UInt16.self)
        }
    }

    /// One bit per physical register: set if it is not empty.
    private var abridgedTags: UInt8 {
        get { unsafe fxImage.load(fromByteOffset: FXImage.tags, as: UInt8.self) }
        nonmutating set {
            unsafe fxImage.storeBytes(of: newValue, toByteOffset: FXImage.tags, as: UInt8.self)
        }
    }

    private var top: Int { Int(statusWord >> 11) & 7 }

    /// ES and B follow from the exception flags and masks (SDM volume 1, section 8.1.3.3).
    private func updateErrorSummary() {
        let pending = statusWord & ~controlWord & X87Status.exceptions != 0
        statusWord = pending ? statusWord | 0x8080 : statusWord & ~0x8080
    }

    /// Replaces the status word. The image lists the registers from the top of the stack, so they
    /// move when TOP does.
    private func replaceStatusWord(_ value: UInt16) {
        let shift = (Int(value >> 11) & 7) - top
        statusWord = value
        guard shift != 0 else { return }
        var old = InlineArray<8, (UInt64, UInt64)>(repeating: (0, 0))
        for index in 0..<8 { old[index] = register(index) }
        for index in 0..<8 { setRegister(index, old[(index + shift) & 7]) }
    }

    /// ST(index), 80 bits.
    private func register(_ index: Int) -> (UInt64, UInt64) {
        unsafe (fxImage + FXImage.st0 + 16 * index).load(as: (UInt64, UInt64).self)
    }

    private func setRegister(_ index: Int, _ value: (UInt64, UInt64)) {
        unsafe (fxImage + FXImage.st0 + 16 * index).storeBytes(
            of: (value.0, value.1 & 0xFFFF), as: (UInt64, UInt64).self)
    }

    func initialiseX87() {
        controlWord = 0x37F
        replaceStatusWord(0)
        abridgedTags = 0
        unsafe (fxImage + FXImage.opcode).storeBytes(of: 0, as: UInt16.self)
        unsafe (fxImage + FXImage.instructionPointer).storeBytes(of: 0, as: UInt64.self)
        unsafe (fxImage + FXImage.dataPointer).storeBytes(of: 0, as: UInt64.self)
    }

    /// The state after a reset (SDM volume 3, table 9-1).
    func resetFXImage() {
        unsafe fxImage.initializeMemory(as: UInt8.self, repeating: 0, count: VCPUState.fxImageSize)
        controlWord = 0x40
        unsafe fxImage.storeBytes(of: 0xFF, toByteOffset: FXImage.tags, as: UInt8.self)
        mxcsr = LeafFrame.defaultMXCSR
    }

    // MARK: FXSAVE

    /// Bytes that FXSAVE writes: in 64-bit mode up to XMM15, else up to XMM7.
    var fxLength: Int { is64Bit ? 416 : 288 }

    private func fxsave(_ address: UInt64, isWide: Bool) throws(Fault) {
        if address & 15 != 0 { throw .generalProtection(0) }
        var copy = fxWords
        if !isWide {
            // 32-bit pointers; the selectors are stored as zero, as current processors do.
            copy[1] &= 0xFFFF_FFFF
            copy[2] &= 0xFFFF_FFFF
        }
        copy[3] = UInt64(mxcsr) | UInt64(fields.supportedMXCSR) << 32
        try unsafe withUnsafePointer(to: &copy) { copy throws(Fault) in
            try unsafe writeBytes(address, fxLength, from: UnsafeRawPointer(copy))
        }
    }

    private func fxrstor(_ address: UInt64, isWide: Bool) throws(Fault) {
        if address & 15 != 0 { throw .generalProtection(0) }
        var copy = InlineArray<64, UInt64>(repeating: 0)
        try unsafe withUnsafeMutablePointer(to: &copy) { copy throws(Fault) in
            try unsafe readBytes(address, fxLength, into: UnsafeMutableRawPointer(copy))
        }
        let newMXCSR = UInt32(truncatingIfNeeded: copy[3])
        if newMXCSR & ~fields.supportedMXCSR != 0 { throw .generalProtection(0) }
        if !isWide {
            copy[1] &= 0xFFFF_FFFF
            copy[2] &= 0xFFFF_FFFF
        }
        // Its mask is the processor's.
        copy[3] = UInt64(newMXCSR) | fxWords[3] & ~0xFFFF_FFFF
        for index in fxLength / 8..<64 { copy[index] = fxWords[index] }
        adopt(copy)
    }

    /// Makes `image` the state, without what does not exist in it.
    func adopt(_ image: InlineArray<64, UInt64>) {
        fxWords = image
        for index in 0..<8 { setRegister(index, register(index)) }
        controlWord = UInt16(truncatingIfNeeded: image[0])
        updateErrorSummary()
    }

    // MARK: FNSTENV, FNSAVE and their opposites

    private func load(
        _ environment: inout X87Environment, from address: UInt64, _ descriptor: LeafDescriptor
    ) throws(Fault) {
        var bytes = InlineArray<28, UInt8>(repeating: 0)
        let is32 = descriptor.operandSize != 2
        try unsafe withUnsafeMutablePointer(to: &bytes) { bytes throws(Fault) in
            try unsafe readBytes(address, is32 ? 28 : 14, into: UnsafeMutableRawPointer(bytes))
        }
        environment = X87Environment(bytes, is32Bit: is32, isProtected: isProtectedMode)
    }

    private func apply(_ environment: X87Environment) {
        controlWord = environment.controlWord
        replaceStatusWord(environment.statusWord)
        var tags: UInt8 = 0
        for index in 0..<8 where (environment.tagWord >> UInt16(2 * index)) & 3 != 3 {
            tags |= 1 << UInt8(index)
        }
        abridgedTags = tags
        unsafe (fxImage + FXImage.opcode).storeBytes(of: environment.opcode, as: UInt16.self)
        unsafe (fxImage + FXImage.instructionPointer).storeBytes(
            of: UInt64(environment.instructionPointer), as: UInt64.self)
        unsafe (fxImage + FXImage.dataPointer).storeBytes(
            of: UInt64(environment.dataPointer), as: UInt64.self)
        updateErrorSummary()
    }

    private var environment: X87Environment {
        var result = X87Environment()
        result.controlWord = controlWord
        result.statusWord = statusWord
        result.tagWord = tagWord
        result.opcode = unsafe (fxImage + FXImage.opcode).load(as: UInt16.self) & 0x7FF
        result.instructionPointer = unsafe (fxImage + FXImage.instructionPointer).load(
            as: UInt32.self)
        result.dataPointer = unsafe (fxImage + FXImage.dataPointer).load(as: UInt32.self)
        return result
    }

    /// The full tag word: 0 valid, 1 zero, 2 special, 3 empty for each physical register.
    private var tagWord: UInt16 {
        var word: UInt16 = 0
        for physical in 0..<8 {
            let (significand, high) = register((physical - top) & 7)
            let exponent = high & 0x7FFF
            let tag: UInt16
            if abridgedTags & (1 << UInt8(physical)) == 0 {
                tag = 3
            } else if exponent == 0, significand == 0 {
                tag = 1
            } else if exponent == 0 || exponent == 0x7FFF || significand >> 63 == 0 {
                tag = 2
            } else {
                tag = 0
            }
            word |= tag << UInt16(2 * physical)
        }
        return word
    }

    private func fnstenv(_ address: UInt64, _ descriptor: LeafDescriptor) throws(Fault) {
        let is32 = descriptor.operandSize != 2
        var bytes = environment.bytes(is32Bit: is32, isProtected: isProtectedMode)
        try unsafe withUnsafePointer(to: &bytes) { bytes throws(Fault) in
            try unsafe writeBytes(address, is32 ? 28 : 14, from: UnsafeRawPointer(bytes))
        }
        controlWord |= 0x3F
        updateErrorSummary()
    }

    private func fnsave(_ address: UInt64, _ descriptor: LeafDescriptor) throws(Fault) {
        let is32 = descriptor.operandSize != 2
        let header = is32 ? 28 : 14
        try probeWrite(address, size: header + 80)
        try fnstenv(address, descriptor)
        for index in 0..<8 {
            let value = register(index)
            let place = address &+ UInt64(header + 10 * index)
            try store(place, value.0)
            try store(place &+ 8, UInt16(truncatingIfNeeded: value.1))
        }
        initialiseX87()
    }

    private func frstor(_ address: UInt64, _ descriptor: LeafDescriptor) throws(Fault) {
        let header = descriptor.operandSize != 2 ? 28 : 14
        var environment = X87Environment()
        try load(&environment, from: address, descriptor)
        var bytes = InlineArray<80, UInt8>(repeating: 0)
        try unsafe withUnsafeMutablePointer(to: &bytes) { bytes throws(Fault) in
            try unsafe readBytes(
                address &+ UInt64(header), 80, into: UnsafeMutableRawPointer(bytes))
        }
        apply(environment)
        unsafe withUnsafePointer(to: &bytes) { bytes in
            let raw = unsafe UnsafeRawPointer(bytes)
            for index in 0..<8 {
                let low = unsafe (raw + 10 * index).loadUnaligned(as: UInt64.self)
                let high = unsafe (raw + 10 * index + 8).loadUnaligned(as: UInt16.self)
                setRegister(index, (low, UInt64(high)))
            }
        }
    }

    // MARK: MASKMOVDQU, MASKMOVQ

    private func maskedStore(
        _ descriptor: LeafDescriptor, _ destination: UInt8, _ source: UInt8
    ) throws(Fault) {
        let isMMX = descriptor.flags.contains(.mmx)
        let data = isMMX ? mmx(destination) : vectorValue(destination)
        let mask = isMMX ? mmx(source) : vectorValue(source)
        var start = self[Register.rdi]
        if descriptor.generalSize < 8 {
            start &= descriptor.generalSize == 4 ? 0xFFFF_FFFF : 0xFFFF
        }
        func isSelected(_ index: Int) -> Bool {
            (index < 8 ? mask.0 : mask.1) >> (UInt64(index & 7) * 8) & 0x80 != 0
        }
        func address(_ index: Int) throws(Fault) -> UInt64 {
            try linearAddress(
                segment: descriptor.offset, offset: start &+ UInt64(index), size: 1, isWrite: true)
        }
        // Nothing is written if any of the bytes faults.
        for index in 0..<(isMMX ? 8 : 16) where isSelected(index) {
            try probeWrite(address(index), size: 1)
        }
        for index in 0..<(isMMX ? 8 : 16) where isSelected(index) {
            let byte = (index < 8 ? data.0 : data.1) >> (UInt64(index & 7) * 8)
            try store(address(index), UInt8(truncatingIfNeeded: byte))
        }
        if isMMX { enterMMX() }
    }

    /// What every MMX instruction does: all registers are in use, TOP is zero.
    func enterMMX() {
        replaceStatusWord(statusWord & ~0x3800)
        abridgedTags = 0xFF
    }

    /// An MMX register: the same of the physical registers, whatever TOP is.
    private func mmx(_ number: UInt8) -> (UInt64, UInt64) { register((Int(number) - top) & 7) }

    private func vectorValue(_ number: UInt8) -> (UInt64, UInt64) {
        unsafe xmm(number).load(as: (UInt64, UInt64).self)
    }
}
