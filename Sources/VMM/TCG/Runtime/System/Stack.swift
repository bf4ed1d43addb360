/// A stack being pushed to or popped from, without touching registers until `commit`: an
/// instruction that faults half-way leaves the CPU as it was.
struct Stack {
    let cpu: CPU
    /// For the limit checks outside 64-bit code.
    let segment: Segment
    /// 64-bit: no segment checks.
    let isLong: Bool
    /// The TLB mode of the accesses.
    let mode: Int
    /// The error code of the stack faults that accesses raise.
    let code: UInt16
    var pointer: UInt64

    /// The bits of the stack pointer that are used.
    var mask: UInt64 { isLong ? UInt64.max : segment.isBig ? 0xFFFF_FFFF : 0xFFFF }

    /// The current stack, accessed with the current privilege.
    init(current cpu: CPU) {
        self.init(
            cpu, cpu.segment(SegmentRegister.ss), pointer: cpu[4], isLong: cpu.is64Bit,
            mode: cpu.dataMode, code: 0)
    }

    init(_ cpu: CPU, _ segment: Segment, pointer: UInt64, isLong: Bool, mode: Int, code: UInt16) {
        self.cpu = cpu
        self.segment = segment
        self.pointer = pointer
        self.isLong = isLong
        self.mode = mode
        self.code = code
    }

    private func address(_ offset: UInt64, size: Int, isWrite: Bool) throws(Fault) -> UInt64 {
        if isLong {
            guard cpu.isCanonical(offset), cpu.isCanonical(offset &+ UInt64(size - 1)) else {
                throw .stackFault(code)
            }
            return offset
        }
        guard cpu.isAccessible(segment, offset: offset, size: size, isWrite: isWrite) else {
            throw .stackFault(code)
        }
        return (segment.base &+ offset) & 0xFFFF_FFFF
    }

    private var linearMask: UInt64 { isLong ? UInt64.max : 0xFFFF_FFFF }

    mutating func push(_ value: UInt64, size: Int) throws(Fault) {
        let next = (pointer &- UInt64(size)) & mask
        let linear = try address(next, size: size, isWrite: true)
        try cpu.store(linear, size: size, value, mode: mode, mask: linearMask)
        pointer = next
    }

    mutating func pop(size: Int) throws(Fault) -> UInt64 {
        let value = try peek(0, size: size)
        pointer = (pointer &+ UInt64(size)) & mask
        return value
    }

    /// Reads the value `offset` bytes above the pointer.
    func peek(_ offset: Int, size: Int) throws(Fault) -> UInt64 {
        let place = (pointer &+ UInt64(offset)) & mask
        let linear = try address(place, size: size, isWrite: false)
        return try cpu.load(linear, size: size, mode: mode, mask: linearMask)
    }

    /// Makes the pointer the CPU's stack pointer. A 16-bit stack keeps the upper bits.
    func commit() {
        cpu[4] = mask == 0xFFFF ? (cpu[4] & ~0xFFFF) | (pointer & 0xFFFF) : pointer & mask
    }
}
