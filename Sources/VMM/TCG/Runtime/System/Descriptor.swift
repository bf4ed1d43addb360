/// A segment or system descriptor of 8 bytes (SDM volume 3, sections 3.4.5 and 3.5).
struct Descriptor: BitwiseCopyable {
    var raw: UInt64

    init(_ raw: UInt64) { self.raw = raw }

    var type: UInt32 { UInt32((raw >> 40) & 15) }
    var isCodeOrData: Bool { raw & (1 << 44) != 0 }
    var dpl: UInt8 { UInt8((raw >> 45) & 3) }
    var isPresent: Bool { raw & (1 << 47) != 0 }
    var isLong: Bool { raw & (1 << 53) != 0 }
    var isBig: Bool { raw & (1 << 54) != 0 }

    var isCode: Bool { isCodeOrData && type & 8 != 0 }
    var isData: Bool { isCodeOrData && type & 8 == 0 }
    var isConforming: Bool { type & 4 != 0 }
    /// Of code: readable. Of data: writable.
    var isReadableOrWritable: Bool { type & 2 != 0 }
    var isAccessed: Bool { type & 1 != 0 }
    var isWritableData: Bool { isData && isReadableOrWritable }

    var base: UInt64 { ((raw >> 16) & 0xFF_FFFF) | ((raw >> 56) & 0xFF) << 24 }

    var limit: UInt32 {
        let limit = UInt32(raw & 0xFFFF) | UInt32((raw >> 48) & 15) << 16
        return raw & (1 << 55) != 0 ? limit << 12 | 0xFFF : limit
    }

    /// The hidden part of a segment register that holds this descriptor.
    func segment(_ selector: UInt16) -> Segment {
        Segment(
            selector: selector, attributes: UInt32((raw >> 40) & 0xF0FF), limit: limit, base: base)
    }

    // As a gate: selector, offset, and the number of parameters or the stack table entry.
    var gateSelector: UInt16 { UInt16(truncatingIfNeeded: raw >> 16) }
    var gateOffset32: UInt64 { (raw & 0xFFFF) | ((raw >> 48) << 16) }
    var gateOffset16: UInt64 { raw & 0xFFFF }
    var gateCount: Int { Int((raw >> 32) & 31) }
    var gateStackTable: Int { Int((raw >> 32) & 7) }
}

/// Types of system descriptors (SDM volume 3, table 3-2).
enum SystemType {
    static let tss16: UInt32 = 1
    static let ldt: UInt32 = 2
    static let busyTSS16: UInt32 = 3
    static let callGate16: UInt32 = 4
    static let taskGate: UInt32 = 5
    static let interruptGate16: UInt32 = 6
    static let trapGate16: UInt32 = 7
    static let tss: UInt32 = 9
    static let busyTSS: UInt32 = 11
    static let callGate: UInt32 = 12
    static let interruptGate: UInt32 = 14
    static let trapGate: UInt32 = 15
}

extension CPU {
    /// The linear address of a descriptor, or `nil` outside its table.
    func descriptorAddress(_ selector: UInt16, size: UInt64 = 8) -> UInt64? {
        let offset = UInt64(selector & ~7)
        if selector & 4 == 0 {
            let limit = UInt64(fields.gdtr.limit)
            return offset + size - 1 <= limit ? fields.gdtr.base &+ offset : nil
        }
        let table = segment(SegmentRegister.ldtr)
        guard table.isUsable, offset + size - 1 <= UInt64(table.limit) else { return nil }
        return table.base &+ offset
    }

    /// The descriptor that a selector names, or `nil` outside its table.
    func readDescriptor(_ selector: UInt16) throws(Fault) -> Descriptor? {
        guard let address = descriptorAddress(selector) else { return nil }
        return Descriptor(try loadSupervisor(address, as: UInt64.self))
    }

    /// The upper half of a 16-byte system descriptor in long mode. #GP(selector) where it is
    /// outside the table or not of the right form.
    func readUpperHalf(_ selector: UInt16) throws(Fault) -> UInt64 {
        guard let address = descriptorAddress(selector, size: 16) else {
            throw .generalProtection(selector & ~3)
        }
        let upper = try loadSupervisor(address &+ 8, as: UInt64.self)
        // The type field of the upper half must be zero.
        if upper & (0x1F << 40) != 0 { throw .generalProtection(selector & ~3) }
        return upper
    }

    /// Sets the accessed bit of a code or data descriptor in memory.
    func markAccessed(_ selector: UInt16, _ descriptor: Descriptor) throws(Fault) -> Descriptor {
        guard !descriptor.isAccessed, let address = descriptorAddress(selector) else {
            return descriptor
        }
        let byte = UInt8(truncatingIfNeeded: descriptor.raw >> 40) | 1
        try storeSupervisor(address &+ 5, byte)
        return Descriptor(descriptor.raw | 1 << 40)
    }
}
