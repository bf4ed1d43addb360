/// 256 bits, one for each vector.
struct VectorSet: Sendable {
    private var words = InlineArray<4, UInt64>(repeating: 0)

    subscript(vector: UInt8) -> Bool {
        get { words[Int(vector >> 6)] & (1 << UInt64(vector & 63)) != 0 }
        set {
            let bit: UInt64 = 1 << UInt64(vector & 63)
            if newValue { words[Int(vector >> 6)] |= bit } else { words[Int(vector >> 6)] &= ~bit }
        }
    }

    /// The highest vector in the set.
    var highest: UInt8? {
        for word in [3, 2, 1, 0] where words[word] != 0 {
            return UInt8(word * 64 + 63 - words[word].leadingZeroBitCount)
        }
        return nil
    }

    /// The 32-bit register number `index` (0-7).
    func register(_ index: UInt32) -> UInt32 {
        UInt32(truncatingIfNeeded: words[Int(index >> 1)] >> UInt64(32 * (index & 1)))
    }
}

/// Bits of the error status register (SDM volume 3, section 11.5.3).
enum APICError {
    static let sendIllegalVector: UInt32 = 1 << 5
    static let receiveIllegalVector: UInt32 = 1 << 6
    static let illegalRegister: UInt32 = 1 << 7
}

/// Entries of the local vector table, by their place in the register page (0x320...0x370).
enum LocalVector {
    static let timer = 0
    static let thermal = 1
    static let performance = 2
    static let lint0 = 3
    static let lint1 = 4
    static let error = 5
    static let masked: UInt32 = 1 << 16
}

/// The registers of a local APIC and what waits for its CPU.
struct APICRegisters: Sendable {
    let id: UInt32
    let isBootstrap: Bool
    /// The MSR APIC_BASE.
    var base: UInt64
    var taskPriority: UInt8 = 0
    /// In the register's form: xAPIC has the id in bits 24-31.
    var logicalDestination: UInt32 = 0
    var destinationFormat: UInt32 = UInt32.max
    var spurious: UInt32 = 0xFF
    var inService = VectorSet()
    var triggerMode = VectorSet()
    var requested = VectorSet()
    /// Errors since the last write of the register, and those that write showed.
    var newErrors: UInt32 = 0
    var shownErrors: UInt32 = 0
    var command: UInt64 = 0
    var localVectors = InlineArray<6, UInt32>(repeating: LocalVector.masked)
    var timer = APICTimer()
    var events = APICEvents()

    static let defaultBase: UInt64 = 0xFEE0_0000
    static let bootstrapBit: UInt64 = 1 << 8
    static let x2Bit: UInt64 = 1 << 10
    static let enableBit: UInt64 = 1 << 11

    init(id: UInt32, isBootstrap: Bool) {
        self.id = id
        self.isBootstrap = isBootstrap
        base = Self.defaultBase | Self.enableBit | (isBootstrap ? Self.bootstrapBit : 0)
    }

    var isEnabled: Bool { base & Self.enableBit != 0 }
    var isX2: Bool { base & Self.x2Bit != 0 }
    /// The spurious vector register's enable bit.
    var isSoftwareEnabled: Bool { isEnabled && spurious & 0x100 != 0 }

    // MARK: Priorities (section 11.8.3)

    var processorPriority: UInt8 {
        let serving = inService.highest.map { $0 & 0xF0 } ?? 0
        return taskPriority & 0xF0 >= serving ? taskPriority : serving
    }

    /// The interrupt that would be delivered now.
    var deliverable: UInt8? {
        guard isEnabled, let vector = requested.highest,
            vector & 0xF0 > processorPriority & 0xF0
        else { return nil }
        return vector
    }

    mutating func acknowledge() -> UInt8? {
        guard let vector = deliverable else { return nil }
        requested[vector] = false
        inService[vector] = true
        return vector
    }

    /// EOI. Returns the vector if it was level-triggered: the I/O APIC must know.
    mutating func endInterrupt() -> UInt8? {
        guard let vector = inService.highest else { return nil }
        inService[vector] = false
        return triggerMode[vector] ? vector : nil
    }

    // MARK: Receiving

    /// Takes a message. Returns whether the CPU has something to look at.
    mutating func receive(_ mode: DeliveryMode, vector: UInt8, isLevel: Bool) -> Bool {
        switch mode {
        case .fixed, .lowestPriority:
            guard isSoftwareEnabled else { return false }
            if vector < 16 {
                raise(APICError.receiveIllegalVector)
                return true
            }
            triggerMode[vector] = isLevel
            requested[vector] = true
            return true
        case .nmi: events.nmiCount = min(events.nmiCount + 1, 2)
        case .initialise:
            events.hasINIT = true
            events.startUp = nil
        case .startUp: events.startUp = vector
        // There is no system management mode, and external interrupts need a PIC.
        case .smi, .external: return false
        }
        return true
    }

    /// Records an error and raises the error interrupt.
    mutating func raise(_ error: UInt32) {
        if newErrors & error != 0 { return }
        newErrors |= error
        let entry = localVectors[LocalVector.error]
        let vector = UInt8(entry & 0xFF)
        guard isSoftwareEnabled, entry & LocalVector.masked == 0, vector >= 16 else { return }
        triggerMode[vector] = false
        requested[vector] = true
    }

    mutating func fireTimer(_ now: UInt64) {
        guard timer.fire(now) else { return }
        let entry = localVectors[LocalVector.timer]
        guard isSoftwareEnabled, entry & LocalVector.masked == 0 else { return }
        let vector = UInt8(entry & 0xFF)
        if vector < 16 { return raise(APICError.receiveIllegalVector) }
        triggerMode[vector] = false
        requested[vector] = true
    }

    // MARK: Addressing (section 11.6.2)

    /// Whether a message with this destination is for this CPU. `isWide`: from an x2APIC's ICR,
    /// where a destination has 32 bits.
    func matches(_ destination: UInt32, isLogical: Bool, isWide: Bool) -> Bool {
        if destination == (isWide ? UInt32.max : 0xFF) { return true }
        if !isLogical { return destination == id }
        if isX2 {
            return destination >> 16 == logicalDestination >> 16
                && destination & logicalDestination & 0xFFFF != 0
        }
        let logical = logicalDestination >> 24
        if destinationFormat >> 28 == 0xF { return logical & destination & 0xFF != 0 }
        return logical >> 4 == (destination >> 4) & 0xF && logical & destination & 0xF != 0
    }

    // MARK: Modes (section 11.12.5)

    mutating func enterX2() {
        base |= Self.x2Bit | Self.enableBit
        logicalDestination = (id >> 4) << 16 | 1 << (id & 15)
        command &= 0xFFFF_FFFF
    }

    /// Writes APIC_BASE. Returns `false` for what must be #GP.
    mutating func setBase(_ value: UInt64) -> Bool {
        let reserved = UInt64.max << PageEntry.physicalBits | 0x2FF
        if value & reserved != 0 { return false }
        let enables = value & Self.enableBit != 0
        let wantsX2 = value & Self.x2Bit != 0
        if wantsX2 && (!enables || !isEnabled) && !isX2 { return false }
        if isX2 && !wantsX2 && enables { return false }
        if wantsX2 && !enables { return false }
        let events = events
        if !enables && isEnabled { self = APICRegisters(id: id, isBootstrap: isBootstrap) }
        self.events = events
        let wasX2 = isX2
        base = value & ~Self.bootstrapBit | (isBootstrap ? Self.bootstrapBit : 0)
        if wantsX2 && !wasX2 { enterX2() }
        return true
    }
}
