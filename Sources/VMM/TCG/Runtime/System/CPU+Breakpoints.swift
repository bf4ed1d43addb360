// Breakpoints of the debug registers (SDM volume 3, section 18.2), and single steps.

/// Bits of DR6 (section 18.2.3).
enum DR6 {
    static let bd: UInt64 = 1 << 13
    static let bs: UInt64 = 1 << 14
    static let bt: UInt64 = 1 << 15
    /// Bits that always read as one.
    static let fixed: UInt64 = 0xFFFF_0FF0
}

/// Bits of DR7 (section 18.2.4).
enum DR7 {
    static let gd: UInt64 = 1 << 13
    static let fixed: UInt64 = 1 << 10
}

extension CPU {
    /// Whether an enabled data breakpoint lies in the page.
    func isWatched(page: UInt64) -> Bool {
        guard fields.hasDataBreakpoints else { return false }
        for number in 0..<4 where breakpointKind(number) & 1 != 0 {
            let (first, last) = breakpointRange(number)
            if first & ~0xFFF <= page && page <= last { return true }
        }
        return false
    }

    /// Remembers hits of data breakpoints for the end of the instruction.
    func noteWatched(_ linear: UInt64, size: Int, isWrite: Bool) {
        guard fields.hasDataBreakpoints else { return }
        for number in 0..<4 where isBreakpointEnabled(number) {
            let kind = breakpointKind(number)
            // 1: writes, 3: reads and writes.
            guard kind == 3 || (kind == 1 && isWrite) else { continue }
            let (first, last) = breakpointRange(number)
            if linear <= last && linear &+ UInt64(size - 1) >= first {
                fields.pendingDebug |= 1 << UInt64(number)
            }
        }
    }

    /// Sets the causes of a debug exception in DR6. B0-B3 say what hit now, as processors do it;
    /// the other bits stay until software clears them (SDM volume 3, section 18.2.3).
    func recordDebugException(_ causes: UInt64) {
        fields.debugRegisters[6] = (fields.debugRegisters[6] & ~0xF) | causes
    }

    func isBreakpointEnabled(_ number: Int) -> Bool {
        (fields.debugRegisters[7] >> UInt64(2 * number)) & 3 != 0
    }

    /// R/W: 0 instructions, 1 writes, 2 ports, 3 reads and writes.
    func breakpointKind(_ number: Int) -> UInt64 {
        (fields.debugRegisters[7] >> UInt64(16 + 4 * number)) & 3
    }

    func breakpointRange(_ number: Int) -> (UInt64, UInt64) {
        let code = (fields.debugRegisters[7] >> UInt64(18 + 4 * number)) & 3
        // LEN: 1, 2, 8, 4 bytes.
        let size: UInt64 = code == 2 ? 8 : code + 1
        let first = fields.debugRegisters[number] & ~(size - 1)
        return (first, first &+ (size - 1))
    }
}
