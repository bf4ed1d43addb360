// XSAVE and its kin (SDM volume 1, chapter 13). Models without AVX do not have them: CPUID does not
// show them, and CR4.OSXSAVE cannot be set. x87 and SSE are in the FXSAVE image, the upper halves of
// YMM registers in `fields.upperHalves`. In the service of another provider there may be more: parts
// of an XSAVE image in the standard form, `fields.extendedImage`, that are only moved.

/// The ways to save.
enum ExtendedSave {
    case all
    /// XSAVEOPT: what is in its initial state is not written.
    case inUse
    /// XSAVEC: likewise, and without gaps.
    case compacted
}

// SAFETY for the whole extension: offsets into the FXSAVE image are constants inside its 512 bytes,
// and `extendedComponents` names only what lies inside the XSAVE image.
extension CPU {
    private typealias Layout = ExtendedStateLayout

    private static var isCompacted: UInt64 { 1 << 63 }
    private static var headerOffset: UInt64 { 512 }

    /// What XCR0 can hold.
    private var supportedComponents: UInt64 {
        Layout.x87 | Layout.sse | fields.extendedComponents
    }

    func requireXSAVE() throws(Fault) {
        if fields.cr4 & CR4.osxsave == 0 { throw .invalidOpcode }
    }

    private var pairedRegisters: UInt64 { self[2] << 32 | self[0] & 0xFFFF_FFFF }

    // MARK: XCR0

    func xgetbv() throws(Fault) {
        try requireXSAVE()
        let value: UInt64
        switch self[1] & 0xFFFF_FFFF {
        case 0: value = fields.xcr0
        case 1: value = fields.xcr0 & componentsInUse(countsMXCSR: true)
        default: throw .generalProtection(0)
        }
        self[0] = value & 0xFFFF_FFFF
        self[2] = value >> 32
    }

    func xsetbv() throws(Fault) {
        try requireXSAVE()
        try requireSupervisor()
        let value = pairedRegisters
        let isComplete = Layout.inseparable.allSatisfy { [0, $0].contains(value & $0) }
        guard self[1] & 0xFFFF_FFFF == 0, value & ~supportedComponents == 0, isComplete,
            value & Layout.x87 != 0, value & Layout.avx == 0 || value & Layout.sse != 0,
            value & Layout.avx512 == 0 || value & Layout.avx != 0
        else { throw .generalProtection(0) }
        fields.xcr0 = value
        updateMode()
    }

    // MARK: Saving

    /// Components that are not in their initial state. MXCSR has no place of its own in an image's
    /// header, and only some count it as a part of SSE's.
    private func componentsInUse(countsMXCSR: Bool) -> UInt64 {
        let image = fxWords
        var result: UInt64 = 0
        // FCW is 37F, everything else is zero.
        var x87 = image[0] ^ 0x37F | image[1] | image[2]
        for word in 4..<20 { x87 |= image[word] }
        if x87 != 0 { result |= Layout.x87 }
        var sse: UInt64 = 0
        for word in 20..<fxLength / 8 { sse |= image[word] }
        if countsMXCSR { sse |= UInt64(mxcsr ^ LeafFrame.defaultMXCSR) }
        if sse != 0 { result |= Layout.sse }
        if let extended = unsafe fields.extendedImage {
            let header = unsafe extended.loadUnaligned(
                fromByteOffset: Int(Self.headerOffset), as: UInt64.self)
            result |= header & fields.extendedComponents & ~Layout.avx
        }
        if fields.hasUpperHalves != 0 { result |= fields.extendedComponents & Layout.avx }
        return result
    }

    func xsave(_ op: OperationPointer, _ kind: ExtendedSave) throws(Fault) {
        let place = try extendedOperand(op, size: Layout.headerEnd, .save)
        let requested = fields.xcr0 & pairedRegisters & supportedComponents
        let inUse = componentsInUse(countsMXCSR: kind == .compacted)
        let compaction = kind == .compacted ? requested | Self.isCompacted : 0
        let written = kind == .all ? requested : requested & inUse
        let end = imageEnd(requested, compaction)
        _ = try extendedOperand(op, size: end, .save)
        try probeImage(place, written, compaction, .save)
        try writeLegacyRegion(place, written, requested, kind, pointerSize: Int(op.size))
        for number in Self.componentNumbers(written & fields.extendedComponents) {
            let target = place &+ UInt64(Layout.host.offset(of: number, compaction: compaction))
            if let source = unsafe componentState(number) {
                try unsafe copyOut(target, usedSize(number), from: source)
            }
        }
        let header = place &+ Self.headerOffset
        if kind == .compacted {
            try store(header, requested & inUse)
            try store(header &+ 8, compaction)
        } else {
            let old = try load(header, as: UInt64.self)
            try store(header, old & ~requested | requested & inUse)
        }
    }

    /// x87 and SSE; MXCSR belongs to AVX as well, but not in the compacted form.
    private func writeLegacyRegion(
        _ place: UInt64, _ written: UInt64, _ requested: UInt64, _ kind: ExtendedSave,
        pointerSize: Int
    ) throws(Fault) {
        var image = fxWords
        if pointerSize < 8 {
            image[1] &= 0xFFFF_FFFF
            image[2] &= 0xFFFF_FFFF
        }
        image[3] = UInt64(mxcsr) | UInt64(fields.supportedMXCSR) << 32
        let hasMXCSR =
            kind == .compacted
            ? written & Layout.sse != 0 : requested & (Layout.sse | Layout.avx) != 0
        let length = fxLength
        try unsafe withUnsafePointer(to: &image) { image throws(Fault) in
            let bytes = unsafe UnsafeRawPointer(image)
            if written & Layout.x87 != 0 {
                try unsafe copyOut(place, 24, from: bytes)
                try unsafe copyOut(place &+ 32, 128, from: bytes + 32)
            }
            if hasMXCSR { try unsafe copyOut(place &+ 24, 8, from: bytes + 24) }
            if written & Layout.sse != 0 {
                try unsafe copyOut(place &+ 160, length - 160, from: bytes + 160)
            }
        }
    }

    // MARK: Restoring

    func xrstor(_ op: OperationPointer) throws(Fault) {
        let place = try extendedOperand(op, size: Layout.headerEnd, .restore)
        let requested = fields.xcr0 & pairedRegisters & supportedComponents
        var header = InlineArray<8, UInt64>(repeating: 0)
        for word in 0..<8 {
            header[word] = try load(
                place &+ Self.headerOffset &+ UInt64(8 * word), as: UInt64.self)
        }
        let (present, compaction) = (header[0], header[1])
        var reserved = header[2]
        if compaction & Self.isCompacted == 0 {
            reserved |= present & ~fields.xcr0 | compaction
        } else {
            let listed = compaction & ~Self.isCompacted
            reserved |= listed & ~fields.xcr0 | present & ~listed
            for word in 3..<8 { reserved |= header[word] }
        }
        if reserved != 0 { throw .generalProtection(0) }
        _ = try extendedOperand(
            op, size: imageEnd(requested & present, compaction), .restore)
        try probeImage(place, requested & present, compaction, .restore)
        let image = try readLegacyRegion(
            place, requested, present, compaction, pointerSize: Int(op.size))
        for number in Self.componentNumbers(requested & fields.extendedComponents) {
            try restore(number, place, present, compaction)
        }
        adopt(image)
    }

    /// The FXSAVE image as it will be.
    private func readLegacyRegion(
        _ place: UInt64, _ requested: UInt64, _ present: UInt64, _ compaction: UInt64,
        pointerSize: Int
    ) throws(Fault) -> InlineArray<64, UInt64> {
        let isCompacted = compaction != 0
        var image = fxWords
        func read(_ words: Range<Int>, _ image: inout InlineArray<64, UInt64>) throws(Fault) {
            for word in words {
                image[word] = try load(place &+ UInt64(8 * word), as: UInt64.self)
            }
        }
        if requested & Layout.x87 != 0 {
            image[0] = 0x37F
            for word in 1..<20 where word != 3 { image[word] = 0 }
            if present & Layout.x87 != 0 {
                try read(0..<3, &image)
                try read(4..<20, &image)
                if pointerSize < 8 {
                    image[1] &= 0xFFFF_FFFF
                    image[2] &= 0xFFFF_FFFF
                }
            }
        }
        let last = fxLength / 8
        if requested & Layout.sse != 0 {
            for word in 20..<last { image[word] = 0 }
            if present & Layout.sse != 0 { try read(20..<last, &image) }
        }
        // The standard form has MXCSR in any case, and for AVX too.
        if isCompacted, requested & Layout.sse != 0, present & Layout.sse == 0 {
            image[3] = image[3] & ~0xFFFF_FFFF | UInt64(LeafFrame.defaultMXCSR)
        } else if requested & (isCompacted ? Layout.sse : Layout.sse | Layout.avx) != 0 {
            let new = try load(place &+ UInt64(FXImage.mxcsr), as: UInt32.self)
            if new & ~fields.supportedMXCSR != 0 { throw .generalProtection(0) }
            image[3] = image[3] & ~0xFFFF_FFFF | UInt64(new)
        }
        return image
    }

    /// Takes a component beyond SSE from memory, or initialises it.
    private func restore(
        _ number: Int, _ place: UInt64, _ present: UInt64, _ compaction: UInt64
    ) throws(Fault) {
        guard let target = unsafe componentState(number) else { return }
        let size = usedSize(number)
        let bit: UInt64 = 1 << UInt64(number)
        if present & bit != 0 {
            let source = place &+ UInt64(Layout.host.offset(of: number, compaction: compaction))
            for byte in stride(from: 0, to: size, by: 4) {
                let word = try load(source &+ UInt64(byte), as: UInt32.self)
                unsafe target.storeBytes(of: word, toByteOffset: byte, as: UInt32.self)
            }
        } else {
            unsafe target.initializeMemory(as: UInt8.self, repeating: 0, count: size)
        }
        if number == Layout.upperHalves {
            if present & bit != 0 {
                fields.hasUpperHalves = 1
            } else if is64Bit {
                fields.hasUpperHalves = 0
            }
            return
        }
        guard let extended = unsafe fields.extendedImage else { return }
        let header = unsafe extended + Int(Self.headerOffset)
        let old = unsafe header.loadUnaligned(as: UInt64.self)
        unsafe header.storeBytes(of: old & ~bit | present & bit, as: UInt64.self)
        fields.hasExtendedChange = true
    }

    /// Bytes of a component that are moved: outside 64-bit mode there are 8 YMM registers (SDM
    /// volume 1, section 13.5.3).
    private func usedSize(_ number: Int) -> Int {
        let size = Layout.host[number].size
        return number == Layout.upperHalves && !is64Bit ? size / 2 : size
    }

    /// Where the state of a component beyond SSE is.
    private func componentState(_ number: Int) -> UnsafeMutableRawPointer? {
        guard number == Layout.upperHalves else {
            guard let image = unsafe fields.extendedImage else { return nil }
            return unsafe image + Layout.host[number].offset
        }
        if fields.hasUpperHalves == 0 { clearUpperHalves() }
        return unsafe upperHalf(0)
    }
}
