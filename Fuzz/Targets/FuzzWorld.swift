import Accelerator
import Core

@testable import TCG

/// A machine with descriptor tables, page tables and code for every mode.
///
///     0x0000  interrupt vectors of real mode      0x08000  stack
///     0x1000  GDT    0x2000  IDT                  0x10000  page tables, four levels
///     0x3000  TSS    0x4000  another one          0x20000  data
///     0x5000  code   0x7000  handlers
final class FuzzWorld {
    enum Mode: CaseIterable {
        case long, longUser, compatibility, protected, protectedUser, paging32, pagingPAE, segmented
        case real, virtual8086
    }

    private static let gdt: UInt64 = 0x1000
    private static let idt: UInt64 = 0x2000
    private static let tss: UInt64 = 0x3000
    private static let code: UInt64 = 0x5000
    private static let handlers: UInt64 = 0x7000
    private static let stack: UInt64 = 0x8800
    private static let tables: UInt64 = 0x1_0000
    private static let data: UInt64 = 0x2_0000

    let machine: FuzzMachine
    private var memory: GuestMemory { machine.memory }
    var vcpu: TCGVCPU { machine.cpus[0] }
    private var cpu: CPU { vcpu.cpu }

    init(cpuCount: Int) throws { machine = try FuzzMachine(cpuCount: cpuCount) }

    func put<T: FixedWidthInteger & BitwiseCopyable>(_ address: UInt64, _ value: T) {
        try? memory.write(GuestAddress(address), value)
    }

    // MARK: Entering a mode

    func enter(_ mode: Mode, _ input: inout FuzzInput) throws {
        machine.reset()
        buildDescriptors(mode)
        buildPageTables(mode)
        let cpu = cpu
        cpu.fields.cr4 = CR4.osfxsr
        cpu.fields.cr0 = CR0.et | CR0.ne
        if input.rarely(8) { cpu.fields.cr0 |= CR0.wp | CR0.am }
        cpu.fields.gdtr = TableRegister(base: Self.gdt, limit: 0x1FF)
        cpu.fields.idtr = TableRegister(base: Self.idt, limit: 0xFFF)
        switch mode {
        case .long, .longUser, .compatibility:
            cpu.fields.cr4 |= CR4.pae
            cpu.fields.efer = EFER.lme | EFER.lma | EFER.nxe | EFER.sce
            cpu.fields.cr0 |= CR0.pe | CR0.pg
            cpu.fields.isLongMode = true
            cpu.fields.cr3 = Self.tables
        case .protected, .protectedUser, .segmented: cpu.fields.cr0 |= CR0.pe
        case .paging32:
            cpu.fields.cr0 |= CR0.pe | CR0.pg
            cpu.fields.cr3 = Self.tables
        case .pagingPAE:
            cpu.fields.cr4 |= CR4.pae
            cpu.fields.efer = EFER.nxe
            cpu.fields.cr0 |= CR0.pe
            cpu.updateMode()
            try cpu.writeControlRegister(3, Self.tables + 0x1000)
            try cpu.writeControlRegister(0, cpu.fields.cr0 | CR0.pg)
        case .real: cpu.fields.idtr = TableRegister(base: 0, limit: 0x3FF)
        case .virtual8086: cpu.fields.cr0 |= CR0.pe
        }
        cpu.updateMode()
        if mode != .real { try cpu.loadTaskRegister(selector: 0x38) }
        // Not before: with SMAP set, the set-up itself would fault on the pages of user mode.
        if input.flag() {
            cpu.fields.cr4 |= input.number() & CR4.supported & ~(CR4.pcide | CR4.pae)
            cpu.flushTLB()
            cpu.updateMode()
        }
        setSegments(mode)
        cpu.rip = mode == .real || mode == .virtual8086 ? 0x100 : Self.code
        setRegisters(&input)
    }

    private func setSegments(_ mode: Mode) {
        let cpu = cpu
        let isUser = mode == .longUser || mode == .protectedUser
        switch mode {
        case .real, .virtual8086:
            let level: UInt32 = mode == .real ? 0x93 : 0xF3
            for register in UInt8(0)..<6 {
                let selector: UInt16 = register == 1 ? 0x4F0 : register == 2 ? 0x800 : 0x2000
                cpu.setSegment(
                    register,
                    Segment(
                        selector: selector, attributes: level, limit: 0xFFFF,
                        base: UInt64(selector) << 4))
            }
            if mode == .virtual8086 {
                cpu.fields.systemFlags |= RFLAGS.vm
                cpu.fields.cpl = 3
            }
        default:
            let level: UInt32 = isUser ? 0x60 : 0
            // Segmented: 16-bit code and data that ends at 64 KiB.
            let isSmall = mode == .segmented
            let isLong = mode == .long || mode == .longUser
            for register in UInt8(0)..<6 where register != SegmentRegister.cs {
                cpu.setSegment(
                    register,
                    Segment(
                        selector: isUser ? 0x23 : isSmall ? 0x50 : 0x10,
                        attributes: (isSmall ? 0x0093 : 0xC093) | level,
                        limit: isSmall ? 0xFFFF : .max, base: 0))
            }
            let selector: UInt16 =
                isLong ? (isUser ? 0x2B : 0x08) : isUser ? 0x33 : isSmall ? 0x48 : 0x18
            cpu.setSegment(
                SegmentRegister.cs,
                Segment(
                    selector: selector,
                    attributes: (isLong ? 0xA09B : isSmall ? 0x009B : 0xC09B) | level,
                    limit: isSmall ? 0xFFFF : .max))
            cpu.fields.cpl = isUser ? 3 : 0
        }
        cpu.updateMode()
    }

    private func setRegisters(_ input: inout FuzzInput) {
        for register in UInt8(0)..<16 {
            cpu[register] =
                input.flag() ? input.edge() : Self.data + UInt64(input.number(UInt16.self))
        }
        if !input.rarely(8) { cpu[4] = cpu.fields.codeSize == 2 ? 0x700 : Self.stack }
        if input.rarely(4) {
            cpu.setFlags(
                UInt64(input.number(UInt16.self)) & RFLAGS.returnable | cpu.fields.systemFlags)
        }
    }

    // MARK: Tables

    private func buildDescriptors(_ mode: Mode) {
        let descriptors: [(UInt16, UInt64)] = [
            (0x08, 0x00AF_9B00_0000_FFFF), (0x10, 0x00CF_9300_0000_FFFF),
            (0x18, 0x00CF_9B00_0000_FFFF), (0x20, 0x00CF_F300_0000_FFFF),
            (0x28, 0x00AF_FB00_0000_FFFF), (0x30, 0x00CF_FB00_0000_FFFF),
            (0x38, 0x0000_8900_0000_0FFF | Self.tss << 16),
            (0x48, 0x0000_9B00_0000_FFFF), (0x50, 0x0000_9300_0000_FFFF),
            // A call gate, another task, a task gate, a local descriptor table.
            (0x58, 0x0000_EC00_0018_0000 | (Self.handlers & 0xFFFF)),
            (0x68, 0x0000_8900_0000_0FFF | 0x4000 << 16), (0x78, 0x0000_E500_0068_0000),
            (0x80, 0x0000_8200_0000_00FF | Self.gdt << 16),
        ]
        for (selector, value) in descriptors { put(Self.gdt + UInt64(selector), value) }
        let isLong = mode == .long || mode == .longUser || mode == .compatibility
        for vector in UInt64(0)..<256 {
            let handler = Self.handlers + (vector & 0xFF)
            put(handler, 0xF4 as UInt8)
            if mode == .real {
                put(4 * vector, UInt32(handler))
            } else if isLong {
                put(Self.idt + 16 * vector, handler | 0xEE00_0008_0000)
            } else {
                put(Self.idt + 8 * vector, handler | 0xEE00_0018_0000)
            }
        }
        // The stacks of the other privilege levels.
        put(Self.tss + 4, UInt64(Self.stack))
        if !isLong { put(Self.tss + 8, 0x10 as UInt32) }
        put(Self.tss + 0x66, 0x68 as UInt16)
    }

    /// Maps 2 MiB to themselves in pages of 4 KiB that users may write.
    private func buildPageTables(_ mode: Mode) {
        let tables = Self.tables
        if mode == .paging32 {
            put(tables, UInt32(tables + 0x3000) | 7)
            for page in UInt64(0)..<512 {
                put(tables + 0x3000 + 4 * page, UInt32(page << 12) | 7)
            }
            return
        }
        put(tables, tables + 0x1000 | 7)
        put(tables + 0x1000, tables + 0x2000 | (mode == .pagingPAE ? 1 : 7))
        put(tables + 0x2000, tables + 0x3000 | 7)
        for page in UInt64(0)..<512 { put(tables + 0x3000 + 8 * page, page << 12 | 7) }
    }

    // MARK: What the input chooses

    /// Bends the tables, and puts code everywhere.
    func fill(_ input: inout FuzzInput) {
        for _ in 0..<input.below(8) {
            let kind = input.below(4)
            switch kind {
            case 0:
                // A page table's entry, mostly of a page that is in use.
                let place = Self.tables + 0x1000 * UInt64(input.below(4))
                let entry = UInt64(input.byte()) * 8
                put(place + entry, pageEntry(&input))
            case 1: put(Self.gdt + 8 * UInt64(input.below(64)), input.number(UInt64.self))
            case 2:
                let vector = UInt64(input.below(32))
                put(Self.idt + 8 * vector, input.number(UInt64.self))
            default: put(Self.tss + UInt64(input.below(0x68)), input.number(UInt32.self))
            }
        }
        if input.flag() {
            for vector in UInt64(0)..<32 { put(Self.handlers + vector, 0xCF as UInt8) }
        }
        cpu.flushTLB()
        let code = input.rest()
        // Whoever runs past the end stops there.
        try? memory.write(GuestAddress(Self.code), Array(code.prefix(0x1fff)) + [0xF4])
    }

    private func pageEntry(_ input: inout FuzzInput) -> UInt64 {
        let flags = UInt64(input.number(UInt16.self) & 0x1FF)
        let page: UInt64 =
            switch input.below(8) {
            case 7: input.number()
            case 6: 0xFEE0_0000
            case 5: 1 << 63 | UInt64(input.byte()) << 12
            default: UInt64(input.byte()) << 12
            }
        return page | flags | (input.rarely(4) ? 0 : 1)
    }

    // MARK: Invariants

    /// What holds between any two instructions.
    func check() throws {
        let cpu = cpu
        let fields = cpu.fields
        try require(cpu[16] == 0, "the absent register is \(cpu[16])")
        try require(fields.cpl <= 3, "the CPL is \(fields.cpl)")
        try require(fields.systemFlags & RFLAGS.arithmetic == 0, "arithmetic flags are kept")
        try require(fields.systemFlags & ~RFLAGS.defined & ~2 == 0, "undefined flags are set")
        try require(fields.cr4 & ~CR4.supported == 0, "CR4 is \(fields.cr4)")
        try require(fields.efer & ~EFER.supported == 0, "EFER is \(fields.efer)")
        let isPaging = fields.cr0 & CR0.pg != 0
        try require(!isPaging || fields.cr0 & CR0.pe != 0, "paging without protected mode")
        let isLong = isPaging && fields.efer & EFER.lme != 0
        try require(fields.isLongMode == isLong, "LMA is \(fields.isLongMode)")
        try require((fields.efer & EFER.lma != 0) == isLong, "EFER.LMA is wrong")
        try require(!isLong || fields.cr4 & CR4.pae != 0, "long mode without PAE")
        try require(isLong || fields.cr4 & CR4.pcide == 0, "PCIDs outside long mode")
        if cpu.isRealMode { try require(fields.cpl == 0, "real mode at CPL \(fields.cpl)") }
        if cpu.isVM86 { try require(fields.cpl == 3 && !cpu.isRealMode, "VM86 at \(fields.cpl)") }
        if fields.codeSize == 8 {
            try require(cpu.isCanonical(cpu.rip), "RIP is not canonical")
        } else {
            try require(cpu.rip >> 32 == 0, "RIP is 0x\(String(cpu.rip, radix: 16))")
        }
        try checkMode()
        try checkTLB()
        try machine.checkCanary()
    }

    /// What `updateMode` keeps is what it would find.
    private func checkMode() throws {
        let before = cpu.fields
        cpu.updateMode()
        let after = cpu.fields
        try require(
            before.modeKey == after.modeKey && before.codeSize == after.codeSize
                && before.tlbMode == after.tlbMode,
            "the mode is out of date: \(before.modeKey) instead of \(after.modeKey)")
        for number in 0..<8 {
            try require(
                before.addressBase[number] == after.addressBase[number],
                "the base of segment \(number) is out of date")
        }
    }

    /// Every entry that the fast path may use leads into the guest's memory.
    private func checkTLB() throws {
        let start = machine.hostAddress
        let tables = unsafe cpu.fields.tlbTables
        for slot in 0..<TLB.modes * TLB.entries {
            // SAFETY: the tables have that many entries.
            let entry = unsafe tables[slot]
            guard entry.physical & TLBFlags.valid != 0, entry.physical & TLBFlags.slow == 0 else {
                continue
            }
            let host = entry.host
            try require(
                host >= start && host - start <= FuzzMachine.size - 4096
                    && host - start == entry.page,
                "the TLB leads to 0x\(String(host, radix: 16))")
            let empty = TLBEntry.emptyTag(slot & (TLB.entries - 1))
            try require(
                entry.writeTag == entry.readTag || entry.writeTag == empty, "a write tag is odd")
        }
    }
}
