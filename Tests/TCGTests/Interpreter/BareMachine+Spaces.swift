@testable import TCG

// Address spaces of user mode, for code that is in several places.
extension BareMachine {
    /// A linear address that no other number has, in a page table of its own.
    static func place(_ number: UInt64) -> UInt64 { (number + 4) << 30 | number << 14 }

    /// An address space with pages at addresses, and the first 8 MiB in their place.
    /// - Returns: CR3.
    func makeSpace(
        _ number: UInt64, _ pages: [(linear: UInt64, physical: UInt64)]
    ) -> UInt64 {
        let top = 0x20_0000 + number << 16
        var free = top + 0x2000
        put(top, (top + 0x1000) | 7)
        put(top + 0x1000, (BareMachine.tables + 0x2000) | 7)
        for page in pages {
            var table = top + 0x1000
            for shift: UInt64 in [30, 21] {
                let entry = table + (page.linear >> shift & 511) * 8
                if get(entry, as: UInt64.self) == 0 {
                    put(entry, free | 7)
                    free += 0x1000
                }
                table = get(entry, as: UInt64.self) & ~0xFFF
            }
            put(table + (page.linear >> 12 & 511) * 8, page.physical | 7)
        }
        return top
    }

    /// User mode with process-context identifiers, for `call`.
    /// - Parameter tier: the threshold of translation.
    static func caller(_ tier: Int32) throws -> BareMachine {
        // again: call r12; mov rdi, r14; call r13; dec ecx; jnz again; hlt, which faults
        let machine = try BareMachine.running(
            [
                0x41, 0xFF, 0xD4, 0x4C, 0x89, 0xF7, 0x41, 0xFF, 0xD5, 0xFF, 0xC9, 0x75, 0xF3,
                0xF4,
            ], cpl: 3)
        machine.cpu.fields.translationThreshold = tier
        machine.cpu.fields.cr4 |= CR4.pcide
        return machine
    }

    /// Calls R12 with RDI = 0 and R13 with RDI = R14, in an address space with its identifier in the
    /// low bits.
    /// - Parameter isNew: it is not still as it was.
    /// - Returns: whether it ended where it should.
    func call(
        _ space: UInt64, _ r12: UInt64, _ r13: UInt64, _ r14: UInt64 = 0, times: UInt64 = 1,
        isNew: Bool = false
    ) throws -> Bool {
        cpu.fields.cpl = 3
        cpu.updateMode()
        try cpu.loadCR3(space, keeps: !isNew)
        (cpu[1], cpu[4], cpu[7]) = (times, BareMachine.stack - 0x800, 0)
        (cpu[12], cpu[13], cpu[14]) = (r12, r13, r14)
        cpu.rip = BareMachine.code
        cpu.fields.isHalted = false
        runUntilHalt()
        return exception?.vector == 13 && exception?.rip == BareMachine.code + 13
    }
}
