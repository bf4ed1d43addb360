import Testing

@testable import TCG

/// One combination of what a 4 KiB page, a mode and an access can be.
struct AccessCase: CustomTestStringConvertible, Sendable {
    var isUserPage: Bool
    var isWritable: Bool
    var isNoExecute: Bool
    var hasWP: Bool
    var hasSMEP: Bool
    var hasSMAP: Bool
    var hasAC: Bool
    var isUserMode: Bool
    /// 0 read, 1 write, 2 fetch.
    var access: Int

    init(_ bits: Int) {
        isUserPage = bits & 1 != 0
        isWritable = bits & 2 != 0
        isNoExecute = bits & 4 != 0
        hasWP = bits & 8 != 0
        hasSMEP = bits & 16 != 0
        hasSMAP = bits & 32 != 0
        hasAC = bits & 64 != 0
        isUserMode = bits & 128 != 0
        access = bits >> 8
    }

    var testDescription: String { "\(self)" }

    /// SDM volume 3, section 4.6.1, written as it is there.
    var isAllowed: Bool {
        if isUserMode {
            guard isUserPage else { return false }
            return access == 0 || (access == 1 ? isWritable : !isNoExecute)
        }
        switch access {
        case 0: return !isUserPage || !hasSMAP || hasAC
        case 1:
            if isUserPage && hasSMAP && !hasAC { return false }
            return !hasWP || isWritable
        default: return !isNoExecute && !(isUserPage && hasSMEP)
        }
    }

    var errorCode: UInt16 {
        1 | (access == 1 ? 2 : 0) | (isUserMode ? 4 : 0) | (access == 2 ? 16 : 0)
    }
}

@Suite("Page walks")
struct PageWalkTests {
    static let page: UInt64 = 0x40_0000
    static let tables = BareMachine.tables

    /// Long mode, with a 4 KiB page at 0x400000 (physical 0x600000) whose entries can be set.
    func machine(cpl: UInt8 = 0) throws -> BareMachine {
        let machine = try BareMachine()
        try machine.enterLong(cpl: cpl)
        machine.put(Self.tables + 0x2010, Self.tables + 0x3000 | 7)
        machine.put(Self.tables + 0x3000, UInt64(0x60_0000 | 7))
        return machine
    }

    func access(_ cpu: CPU, _ kind: Int, _ address: UInt64 = page) -> Fault? {
        fault { () throws(Fault) in
            switch kind {
            case 0: _ = try cpu.load(address, as: UInt32.self)
            case 1: try cpu.store(address, 1 as UInt32)
            default: _ = try cpu.translateFetch(address)
            }
        }
    }

    @Test("every combination of rights", arguments: 0..<768)
    func rights(bits: Int) throws {
        let test = AccessCase(bits)
        let machine = try machine(cpl: test.isUserMode ? 3 : 0)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        var entry: UInt64 = 0x60_0001
        if test.isUserPage { entry |= 4 }
        if test.isWritable { entry |= 2 }
        if test.isNoExecute { entry |= 1 << 63 }
        machine.put(Self.tables + 0x3000, entry)
        if !test.hasWP { cpu.fields.cr0 &= ~CR0.wp }
        if test.hasSMEP { cpu.fields.cr4 |= CR4.smep }
        if test.hasSMAP { cpu.fields.cr4 |= CR4.smap }
        if test.hasAC { cpu.fields.systemFlags |= RFLAGS.ac }
        cpu.updateMode()
        let expected = test.isAllowed ? nil : Fault.pageFault(test.errorCode)
        #expect(access(cpu, test.access) == expected)
        // The same again out of the TLB.
        #expect(access(cpu, test.access) == expected)
        if expected != nil { #expect(cpu.fields.cr2 == Self.page) }
        let new: UInt64 = machine.get(Self.tables + 0x3000, as: UInt64.self)
        let isDirty = test.isAllowed && test.access == 1
        #expect(new == entry | (test.isAllowed ? 0x20 : 0) | (isDirty ? 0x40 : 0))
    }

    @Test("an entry that is not present, at every level", arguments: [0, 0x1000, 0x2010, 0x3000])
    func notPresent(offset: UInt64) throws {
        let machine = try machine()
        let entry = machine.get(Self.tables + offset, as: UInt64.self)
        machine.put(Self.tables + offset, entry & ~1)
        // Page tables are read by physical address, so this one still works.
        #expect(access(machine.cpu, 1, Self.page + 0x18) == .pageFault(2))
        #expect(machine.cpu.fields.cr2 == Self.page + 0x18)
    }

    @Test(
        "reserved bits, at every level",
        arguments: [
            (0, 7), (0, 50), (0x1000, 51), (0x2010, 46), (0x3000, 47),
        ] as [(UInt64, UInt64)])
    func reserved(offset: UInt64, bit: UInt64) throws {
        let machine = try machine()
        let entry = machine.get(Self.tables + offset, as: UInt64.self)
        machine.put(Self.tables + offset, entry | 1 << bit)
        #expect(access(machine.cpu, 0) == .pageFault(9))
    }

    @Test("address bits below a large page's size are reserved", arguments: [13, 20] as [UInt64])
    func misalignedLarge(bit: UInt64) throws {
        let machine = try machine()
        machine.put(Self.tables + 0x2010, 0x60_0087 | 1 << bit)
        #expect(access(machine.cpu, 0) == .pageFault(9))
    }

    @Test("without NXE the execute-disable bit is reserved, and fetches are not told apart")
    func noNXE() throws {
        let machine = try machine()
        machine.cpu.fields.efer &= ~EFER.nxe
        machine.put(Self.tables + 0x3000, 0x60_0007 | (1 as UInt64) << 63)
        #expect(access(machine.cpu, 2) == .pageFault(9))
        machine.put(Self.tables + 0x3000, UInt64(0))
        #expect(access(machine.cpu, 2) == .pageFault(0))
    }

    @Test("rights are those of all levels together", arguments: [0, 0x1000, 0x2010] as [UInt64])
    func combined(offset: UInt64) throws {
        let machine = try machine(cpl: 3)
        let entry = machine.get(Self.tables + offset, as: UInt64.self)
        machine.put(Self.tables + offset, entry & ~2)
        #expect(access(machine.cpu, 0) == nil)
        #expect(access(machine.cpu, 1) == .pageFault(7))
        machine.cpu.flushTLB()
        machine.put(Self.tables + offset, entry & ~4)
        #expect(access(machine.cpu, 0) == .pageFault(5))
    }

    @Test("pages of 4 KiB, 2 MiB and 1 GiB give the right address and accessed bits")
    func sizes() throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.put(0x60_0123, UInt32(0x1111_2222))
        #expect(try cpu.load(Self.page + 0x123, as: UInt32.self) == 0x1111_2222)
        machine.put(Self.tables + 0x2010, UInt64(0x60_0087))
        cpu.flushTLB()
        machine.put(0x71_2345, UInt32(0x3333_4444))
        #expect(try cpu.load(Self.page + 0x11_2345, as: UInt32.self) == 0x3333_4444)
        #expect(machine.get(Self.tables + 0x2010, as: UInt64.self) & 0x60 == 0x20)
        machine.put(Self.tables + 0x1008, UInt64(0x87))
        try cpu.store(0x4000_0000 + 0x71_2345, 0x5555_6666 as UInt32)
        #expect(machine.get(0x71_2345, as: UInt32.self) == 0x5555_6666)
        #expect(machine.get(Self.tables + 0x1008, as: UInt64.self) & 0x60 == 0x60)
    }

    @Test("a write after a read sets the dirty bit")
    func dirtyAfterRead() throws {
        let machine = try machine()
        #expect(access(machine.cpu, 0) == nil)
        #expect(machine.get(Self.tables + 0x3000, as: UInt64.self) & 0x60 == 0x20)
        #expect(access(machine.cpu, 1) == nil)
        #expect(machine.get(Self.tables + 0x3000, as: UInt64.self) & 0x60 == 0x60)
    }

    @Test("a store across pages changes neither when the second faults")
    func crossingStore() throws {
        let machine = try machine()
        machine.put(Self.tables + 0x3008, UInt64(0))
        machine.put(0x60_0FF8, UInt64(0x1122_3344_5566_7788))
        let end = Self.page + 0xFFD
        #expect(
            fault { () throws(Fault) in try machine.cpu.store(end, UInt64(0)) } == .pageFault(2))
        #expect(machine.cpu.fields.cr2 == Self.page + 0x1000)
        #expect(machine.get(0x60_0FF8, as: UInt64.self) == 0x1122_3344_5566_7788)
        machine.put(Self.tables + 0x3008, UInt64(0x70_0007))
        try machine.cpu.store(end, 0x0102_0304_0506_0708 as UInt64)
        #expect(try machine.cpu.load(end, as: UInt64.self) == 0x0102_0304_0506_0708)
        // The three low bytes are in the first page, the rest in the second.
        #expect(machine.get(0x60_0FFD, as: UInt16.self) == 0x0708)
        #expect(machine.get(0x70_0000, as: UInt32.self) == 0x0203_0405)
    }

    @Test("non-canonical addresses are #GP(0), also at the border")
    func canonical() throws {
        let machine = try machine()
        #expect(access(machine.cpu, 0, 0x8000_0000_0000) == .generalProtection(0))
        #expect(access(machine.cpu, 1, 0xFFFF_7FFF_FFFF_FFFF) == .generalProtection(0))
        #expect(access(machine.cpu, 0, 0x7FFF_FFFF_FFFE) == .generalProtection(0))
        #expect(access(machine.cpu, 2, 0x8000_0000_0000) == .generalProtection(0))
    }

    // MARK: Legacy modes

    @Test("32-bit paging: 4 KiB and 4 MiB pages, reserved bit 21, no PSE")
    func legacy() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.put(Self.tables, UInt32(0x87))
        machine.put(Self.tables + 4, UInt32(Self.tables) + 0x1000 | 3)
        machine.put(Self.tables + 0x1004, UInt32(0x60_0003))
        cpu.fields.cr3 = Self.tables
        cpu.fields.cr4 = CR4.pse
        cpu.fields.cr0 |= CR0.pg | CR0.wp
        cpu.flushTLB()
        machine.put(0x60_0010, UInt32(0xABCD))
        #expect(try cpu.load(0x40_1010, as: UInt32.self) == 0xABCD)
        #expect(try cpu.load(0x20_0000, as: UInt32.self) == 0)
        #expect(access(cpu, 0, 0x40_0000) == .pageFault(0))
        machine.put(Self.tables, UInt32(0x20_0087))
        cpu.flushTLB()
        #expect(access(cpu, 0, 0x1000) == .pageFault(9))
        // Without PSE the entry is a page table at 0x200000.
        cpu.fields.cr4 = 0
        #expect(access(cpu, 0, 0x1000) == .pageFault(0))
    }

    @Test("PAE paging takes the directory pointers when CR3 is loaded")
    func pae() throws {
        let machine = try BareMachine()
        try machine.enterProtected()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.put(Self.tables, Self.tables + 0x1000 | 1)
        machine.put(Self.tables + 0x1000, UInt64(0x87))
        machine.put(Self.tables + 0x1008, 0x20_0087 | (1 as UInt64) << 52)
        try cpu.writeControlRegister(4, CR4.pae)
        try cpu.writeControlRegister(3, Self.tables)
        try cpu.writeControlRegister(0, cpu.fields.cr0 | CR0.pg)
        #expect(access(cpu, 0, 0x1000) == nil)
        #expect(access(cpu, 0, 0x20_0000) == .pageFault(9))
        // A change in memory has no effect before the next load.
        machine.put(Self.tables, UInt64(0))
        cpu.flushTLB()
        #expect(access(cpu, 0, 0x1000) == nil)
        machine.put(Self.tables, Self.tables + 0x1000 | 3)
        #expect(
            fault { () throws(Fault) in try cpu.writeControlRegister(3, Self.tables) }
                == .generalProtection(0))
    }
}
