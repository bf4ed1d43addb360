/// Machine code of a bare guest in 64-bit mode, put together instruction by instruction.
struct GuestCode {
    /// Registers by number.
    enum Register: UInt8 {
        case rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi
    }

    /// Conditions by number.
    enum Condition: UInt8 {
        case below = 2
        case equal = 4
        case notEqual = 5
    }

    let start: UInt64
    private(set) var bytes: [UInt8] = []

    init(at start: UInt64 = 0x5000) { self.start = start }

    var position: UInt64 { start + UInt64(bytes.count) }

    mutating func raw(_ new: UInt8...) { bytes += new }

    private mutating func append<T: FixedWidthInteger>(_ value: T) {
        for shift in stride(from: 0, to: T.bitWidth, by: 8) {
            bytes.append(UInt8(truncatingIfNeeded: value >> T(shift)))
        }
    }

    /// mov r64, imm64
    mutating func set(_ register: Register, _ value: UInt64) {
        raw(0x48, 0xB8 + register.rawValue)
        append(value)
    }

    /// mov [address], eax; uses RDI
    mutating func storeEAX(_ address: UInt64) {
        set(.rdi, address)
        raw(0x89, 0x07)
    }

    /// mov eax, [address]; uses RDI
    mutating func loadEAX(_ address: UInt64) {
        set(.rdi, address)
        raw(0x8B, 0x07)
    }

    /// out port, eax
    mutating func out(_ port: UInt8) { raw(0xE7, port) }

    /// Reports a value; uses RAX.
    mutating func report(_ value: UInt32) {
        set(.rax, UInt64(value))
        out(TestSurface.resultPort)
    }

    /// Reports a register; uses RAX.
    mutating func report(_ register: Register) {
        raw(0x48, 0x89, 0xC0 | register.rawValue << 3)
        out(TestSurface.resultPort)
    }

    /// Ends the program: the machine powers off.
    mutating func end() {
        raw(0xE6, TestSurface.endPort)
        raw(0xF4, 0xEB, 0xFD)  // hlt; jmp to it
    }

    /// Uses RAX, RCX and RDX.
    mutating func writeMSR(_ number: UInt32, _ value: UInt64) {
        set(.rcx, UInt64(number))
        set(.rax, value & 0xFFFF_FFFF)
        set(.rdx, value >> 32)
        raw(0x0F, 0x30)
    }

    /// Loads the machine's IDT; uses RDI.
    mutating func loadIDT() {
        set(.rdi, GuestMachine.idtPointer)
        raw(0x0F, 0x01, 0x1F)
    }

    /// Goes to code at privilege level 3.
    mutating func enterProcess(at entry: UInt32, stack: UInt32) {
        for value in [0x23, stack, 2, 0x2B, entry] {
            raw(0x68)  // push
            append(value)
        }
        raw(0x48, 0xCF)  // iretq
    }

    /// Turns the local APIC to x2APIC mode and on, and accepts all interrupts.
    mutating func enableAPIC() {
        set(.rcx, 0x1B)
        raw(0x0F, 0x32)  // rdmsr
        raw(0x0D)
        append(0xC00 as UInt32)  // or eax, EN | EXTD
        raw(0x0F, 0x30)
        writeMSR(0x80F, 0x1FF)
        writeMSR(0x808, 0)
    }

    /// cmp rbx, imm32
    mutating func compareRBX(_ value: UInt32) {
        raw(0x48, 0x81, 0xFB)
        append(value)
    }

    /// Jumps back (or anywhere) with a 32-bit displacement.
    mutating func jump(_ condition: Condition, to target: UInt64) {
        raw(0x0F, 0x80 + condition.rawValue)
        append(UInt32(truncatingIfNeeded: target &- position &- 4))
    }

    mutating func jump(to target: UInt64) {
        raw(0xE9)
        append(UInt32(truncatingIfNeeded: target &- position &- 4))
    }

    /// Waits with interrupts on until RBX, which handlers count in, has reached `count`.
    mutating func waitForRBX(_ count: UInt32) {
        // Only with interrupts off may it be looked at: STI holds them back until HLT.
        let top = position
        raw(0xFA)
        compareRBX(count)
        let skip = bytes.count + 2
        raw(0x73, 0x00)  // jae
        raw(0xFB, 0xF4)  // sti; hlt
        jump(to: top)
        bytes[skip - 1] = UInt8(bytes.count - skip)
    }
}
