/// Writes host instructions into an arena.
///
/// Places are offsets in the arena. One-byte registers are given as `ByteRegister`s where AH to BH
/// may occur; otherwise numbers are those of full registers.
// SAFETY: bytes are only written below the end of the room; what does not fit is counted, and the
// code is thrown away (`isFull`).
@safe struct HostAssembler {
    private let memory: UnsafeMutablePointer<UInt8>
    private let capacity: Int
    private let end: Int
    /// Where the next byte goes.
    private(set) var position: Int

    /// - Parameter isCold: in the arena's second part.
    init(_ arena: HostArena, isCold: Bool = false) {
        unsafe memory = arena.writable(0).assumingMemoryBound(to: UInt8.self)
        capacity = arena.capacity
        let region = isCold ? arena.cold : arena.hot
        (position, end) = (region.position, region.limit)
    }

    var isFull: Bool { position > end }

    /// Forgets what was written from `place` on.
    mutating func goBack(to place: Int) { position = place }

    @inline(__always)
    mutating func byte(_ value: UInt8) {
        if position < end { unsafe memory[position] = value }
        position += 1
    }

    /// More than three bytes. Fewer need no array.
    mutating func sequence(_ values: UInt8...) { for value in values { byte(value) } }

    @inline(__always)
    mutating func bytes(_ first: UInt8, _ second: UInt8) {
        store(UInt16(first) | UInt16(second) << 8)
    }

    @inline(__always)
    mutating func bytes(_ first: UInt8, _ second: UInt8, _ third: UInt8) {
        bytes(first, second)
        byte(third)
    }

    mutating func word(_ value: Int32) { store(value) }

    mutating func long(_ value: UInt64) { store(value) }

    @inline(__always)
    private mutating func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T) {
        let size = MemoryLayout<T>.size
        if position <= end - size {
            unsafe UnsafeMutableRawPointer(memory + position).storeBytes(of: value, as: T.self)
        }
        position += size
    }

    /// Fills up to a multiple of `size`.
    mutating func align(to size: Int) {
        while position % size != 0 { byte(0xCC) }
    }

    // MARK: Encoding

    /// 66, REX and the opcode, which is one byte, or two with 0F in front.
    private mutating func prefix(
        _ opcode: UInt16, size: UInt8, reg: UInt8, index: UInt8 = 0, rm: UInt8,
        needsREX: Bool = false, forbidsREX: Bool = false, mandatory: UInt8 = 0
    ) {
        if size == 2 { byte(0x66) }
        if mandatory != 0 { byte(mandatory) }
        var rex: UInt8 = size == 8 ? 8 : 0
        rex |= (reg >> 3) << 2 | (index >> 3) << 1 | rm >> 3
        if rex != 0 || needsREX, !forbidsREX { byte(0x40 | rex) }
        if opcode > 0xFF { byte(UInt8(truncatingIfNeeded: opcode >> 8)) }
        byte(UInt8(truncatingIfNeeded: opcode))
    }

    /// An instruction with two registers.
    mutating func registers(
        _ opcode: UInt16, size: UInt8, reg: UInt8, rm: UInt8, mandatory: UInt8 = 0
    ) {
        prefix(opcode, size: size, reg: reg, rm: rm, mandatory: mandatory)
        byte(0xC0 | (reg & 7) << 3 | rm & 7)
    }

    /// An instruction with one or two one-byte registers; `size` is for the other.
    ///
    /// - Parameter digit: what is in ModRM.reg instead of a register.
    mutating func byteRegisters(
        _ opcode: UInt16, size: UInt8, reg: ByteRegister, rm: ByteRegister,
        digit: UInt8? = nil
    ) {
        prefix(
            opcode, size: size, reg: reg.number, rm: rm.number,
            needsREX: reg.needsREX || rm.needsREX, forbidsREX: reg.isHigh || rm.isHigh)
        byte(0xC0 | ((digit ?? reg.code) & 7) << 3 | rm.code & 7)
    }

    /// An instruction with a register (or part of its opcode) and memory.
    mutating func memory(
        _ opcode: UInt16, size: UInt8, reg: UInt8, _ memory: HostMemory, needsREX: Bool = false,
        mandatory: UInt8 = 0
    ) {
        prefix(
            opcode, size: size, reg: reg, index: memory.index ?? 0, rm: memory.base,
            needsREX: needsREX, mandatory: mandatory)
        operand(reg & 7, memory)
    }

    mutating func operand(_ reg: UInt8, _ memory: HostMemory) {
        let displacement = memory.displacement
        let isShort = displacement >= -128 && displacement < 128
        // RBP and R13 as a base always have a displacement.
        let mode: UInt8 =
            displacement == 0 && memory.base & 7 != 5 ? 0 : isShort ? 0x40 : 0x80
        if let index = memory.index {
            byte(mode | reg << 3 | 4)
            byte(memory.scale << 6 | (index & 7) << 3 | memory.base & 7)
        } else if memory.base & 7 == 4 {
            byte(mode | reg << 3 | 4)
            byte(0x24)
        } else {
            byte(mode | reg << 3 | memory.base & 7)
        }
        if mode == 0x40 {
            byte(UInt8(truncatingIfNeeded: displacement))
        } else if mode == 0x80 {
            word(displacement)
        }
    }

    // MARK: Frequent instructions

    mutating func load(_ register: UInt8, _ memory: HostMemory, size: UInt8 = 8) {
        self.memory(0x8B, size: size, reg: register, memory)
    }

    mutating func store(_ memory: HostMemory, _ register: UInt8, size: UInt8 = 8) {
        self.memory(0x89, size: size, reg: register, memory)
    }

    /// A plain register is moved, which costs the host nothing.
    mutating func lea(_ register: UInt8, _ memory: HostMemory, size: UInt8 = 8) {
        if memory.index == nil && memory.displacement == 0 {
            if size != 8 || register != memory.base { move(register, memory.base, size: size) }
            return
        }
        self.memory(0x8D, size: size, reg: register, memory)
    }

    mutating func move(_ to: UInt8, _ from: UInt8, size: UInt8 = 8) {
        registers(0x8B, size: size, reg: to, rm: from)
    }

    /// Does not touch flags.
    mutating func set(_ register: UInt8, to value: UInt64) {
        if value <= 0xFFFF_FFFF {
            if register > 7 { byte(0x41) }
            byte(0xB8 | register & 7)
            word(Int32(truncatingIfNeeded: value))
        } else if let short = Int32(exactly: Int64(bitPattern: value)) {
            registers(0xC7, size: 8, reg: 0, rm: register)
            word(short)
        } else {
            setLong(register, to: value)
        }
    }

    /// The same with a constant of eight bytes, which come last.
    mutating func setLong(_ register: UInt8, to value: UInt64) {
        byte(0x48 | register >> 3)
        byte(0xB8 | register & 7)
        long(value)
    }

    /// The immediate of an instruction with `size` bytes of operands.
    mutating func immediate(_ value: Int64, size: UInt8) {
        switch size {
        case 1: byte(UInt8(truncatingIfNeeded: value))
        case 2:
            byte(UInt8(truncatingIfNeeded: value))
            byte(UInt8(truncatingIfNeeded: value >> 8))
        default: word(Int32(truncatingIfNeeded: value))
        }
    }

    // MARK: Jumps

    /// - Returns: the place of the distance.
    mutating func jump() -> Int {
        byte(0xE9)
        word(0)
        return position - 4
    }

    mutating func jump(if condition: UInt8) -> Int {
        bytes(0x0F, 0x80 | condition)
        word(0)
        return position - 4
    }

    /// Bytes of a jump.
    static let jumpSize = 5

    mutating func jump(to target: Int) {
        byte(0xE9)
        distance(to: target)
    }

    mutating func jump(if condition: UInt8, to target: Int) {
        bytes(0x0F, 0x80 | condition)
        distance(to: target)
    }

    mutating func call(_ target: Int) {
        byte(0xE8)
        distance(to: target)
    }

    private mutating func distance(to target: Int) {
        word(Int32(truncatingIfNeeded: target - (position + 4)))
    }

    /// Makes the jump at `place`, which may be in the other part, come here.
    mutating func land(_ place: Int) {
        guard place + 4 <= capacity else { return }
        let distance = UInt32(truncatingIfNeeded: position - (place + 4))
        for index in 0..<4 {
            unsafe memory[place + index] = UInt8(truncatingIfNeeded: distance >> UInt32(8 * index))
        }
    }
}

/// A one-byte register.
struct ByteRegister {
    /// Of the full register.
    let number: UInt8
    /// AH, CH, DH or BH.
    let isHigh: Bool

    init(_ number: UInt8, isHigh: Bool = false) {
        self.number = isHigh ? number & 3 : number
        self.isHigh = isHigh
    }

    var code: UInt8 { isHigh ? number | 4 : number }
    /// SPL, BPL, SIL, DIL.
    var needsREX: Bool { !isHigh && number >= 4 }
}
