import Testing

@testable import TCG

@Suite("Soft TLB")
struct TLBTests {
    static let page = PageWalkTests.page
    static let entry = BareMachine.tables + 0x3000

    /// Long mode with page tables for 4-6 MiB; each page there leads to 6 MiB.
    func machine(global: Bool = false) throws -> BareMachine {
        let machine = try BareMachine()
        try machine.enterLong()
        machine.cpu.fields.cr4 |= CR4.pge
        machine.put(BareMachine.tables + 0x2010, BareMachine.tables + 0x3000 | 7)
        for number in UInt64(0)..<512 {
            machine.put(Self.entry + 8 * number, 0x60_0003 | (global ? 0x100 : 0) as UInt64)
        }
        machine.put(0x60_0000, UInt32(6))
        machine.put(0x70_0000, UInt32(7))
        return machine
    }

    func read(_ machine: BareMachine) throws -> UInt32 {
        try machine.cpu.load(Self.page, as: UInt32.self)
    }

    @Test("loading CR3 drops what is not global")
    func nonGlobal() throws {
        let machine = try machine()
        #expect(try read(machine) == 6)
        machine.put(Self.entry, UInt64(0x70_0003))
        #expect(try read(machine) == 6)
        try machine.cpu.writeControlRegister(3, BareMachine.tables)
        #expect(try read(machine) == 7)
    }

    @Test("global pages survive loads of CR3 until CR4.PGE changes")
    func global() throws {
        let machine = try machine(global: true)
        #expect(try read(machine) == 6)
        machine.put(Self.entry, UInt64(0x70_0103))
        try machine.cpu.writeControlRegister(3, BareMachine.tables)
        #expect(try read(machine) == 6)
        try machine.cpu.writeControlRegister(4, machine.cpu.fields.cr4 & ~CR4.pge)
        #expect(try read(machine) == 7)
    }

    @Test("a slot that changes between global and not is still found")
    func mixed() throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        // The next page with the same slot; map it by a large global page.
        let other = Self.page + UInt64(TLB.entries) << 12
        #expect(TLB.index(other) == TLB.index(Self.page))
        machine.put(BareMachine.tables + 0x2000 + 8 * (other >> 21), UInt64(0x60_0183))
        for _ in 0..<5000 {
            _ = try read(machine)
            _ = try cpu.load(other, as: UInt32.self)
        }
        _ = try read(machine)
        machine.put(Self.entry, UInt64(0x70_0003))
        try cpu.writeControlRegister(3, BareMachine.tables)
        #expect(try read(machine) == 7)
    }

    @Test("INVLPG drops one page, global or not, and all of a large page")
    func invalidate() throws {
        let machine = try machine(global: true)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        #expect(try read(machine) == 6)
        machine.put(Self.entry, UInt64(0x70_0103))
        cpu.invalidatePage(Self.page + 0x1000)
        #expect(try read(machine) == 6)
        cpu.invalidatePage(Self.page + 0x123)
        #expect(try read(machine) == 7)
        machine.put(BareMachine.tables + 0x2010, UInt64(0x60_0083))
        cpu.invalidatePage(Self.page)
        #expect(try read(machine) == 6)
        machine.put(BareMachine.tables + 0x2010, UInt64(0x20_0083))
        cpu.invalidatePage(Self.page + 0x1F_F000)
        #expect(try read(machine) == 0)
    }

    @Test("INVPCID: its four types and what it refuses")
    func invpcid() throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.put(0x8000, UInt64(0))
        machine.put(0x8008, Self.page)
        for type in UInt64(0)..<4 {
            machine.put(Self.entry, UInt64(0x60_0003))
            cpu.flushTLB()
            #expect(try read(machine) == 6)
            machine.put(Self.entry, UInt64(0x70_0003))
            try cpu.invpcid(type: type, descriptor: 0x8000)
            #expect(try read(machine) == 7)
        }
        let bad = Fault.generalProtection(0)
        #expect(fault { () throws(Fault) in try cpu.invpcid(type: 4, descriptor: 0x8000) } == bad)
        machine.put(0x8000, UInt64(1))
        #expect(fault { () throws(Fault) in try cpu.invpcid(type: 1, descriptor: 0x8000) } == bad)
        machine.put(0x8000, UInt64(0))
        machine.put(0x8008, UInt64(1) << 47)
        #expect(fault { () throws(Fault) in try cpu.invpcid(type: 0, descriptor: 0x8000) } == bad)
    }

    @Test("a CR3 load with bit 63 keeps the address space of the same PCID")
    func noFlush() throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        try cpu.writeControlRegister(4, cpu.fields.cr4 | CR4.pcide)
        #expect(try read(machine) == 6)
        machine.put(Self.entry, UInt64(0x70_0003))
        try cpu.writeControlRegister(3, BareMachine.tables | 1 << 63)
        #expect(try read(machine) == 6)
        #expect(cpu.fields.cr3 == BareMachine.tables)
        try cpu.writeControlRegister(3, BareMachine.tables | 5 | 1 << 63)
        #expect(try read(machine) == 7)
    }

    @Test("STAC and CLAC switch between tables with and without SMAP")
    func accessMode() throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.put(Self.entry, UInt64(0x60_0007))
        try cpu.writeControlRegister(4, cpu.fields.cr4 | CR4.smap)
        #expect(
            fault { () throws(Fault) in _ = try cpu.load(Self.page, as: UInt8.self) }
                == .pageFault(1))
        try cpu.stac()
        #expect(try read(machine) == 6)
        try cpu.clac()
        #expect(
            fault { () throws(Fault) in _ = try cpu.load(Self.page, as: UInt8.self) }
                == .pageFault(1))
        // The processor's own accesses do not heed AC.
        try cpu.stac()
        #expect(
            fault { () throws(Fault) in
                _ = try cpu.loadSupervisor(Self.page, as: UInt8.self)
            } == .pageFault(1))
    }

    @Test("alignment checks need AM, AC and CPL 3")
    func alignment() throws {
        let machine = try BareMachine()
        try machine.enterLong(cpl: 3)
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        cpu.fields.cr0 |= CR0.am
        #expect(try cpu.load(0x8001, as: UInt32.self) == 0)
        try cpu.popFlags(RFLAGS.ac, operandSize: 8)
        #expect(
            fault { () throws(Fault) in _ = try cpu.load(0x8001, as: UInt32.self) }
                == .alignmentCheck)
        #expect(fault { () throws(Fault) in try cpu.store(0x8004, UInt64(0)) } == .alignmentCheck)
        #expect(try cpu.load(0x8004, as: UInt32.self) == 0)
        #expect(try cpu.load(0x8001, as: UInt8.self) == 0)
        try cpu.popFlags(0, operandSize: 8)
        #expect(try cpu.load(0x8001, as: UInt32.self) == 0)
    }

    // MARK: Devices

    @Test("device accesses keep their size, and are split where they are not aligned")
    func deviceAccess() throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.put(Self.entry, UInt64(0xD000_0003))
        #expect(try cpu.load(Self.page + 8, as: UInt64.self) == 0x0F0E_0D0C_0B0A_0908)
        #expect(try cpu.load(Self.page + 3, as: UInt32.self) == 0x0605_0403)
        try cpu.store(Self.page + 2, 0x1122_3344 as UInt32)
        #expect(machine.surface.reads.map(\.size) == [8, 1, 2, 1])
        #expect(
            machine.surface.writes == [
                .init(address: 0xD000_0002, size: 2, value: 0x3344),
                .init(address: 0xD000_0004, size: 2, value: 0x1122),
            ])
        // The walk is not repeated, so a changed entry does not matter yet.
        machine.put(Self.entry, UInt64(0))
        try cpu.store(Self.page + 4, 1 as UInt8)
        #expect(machine.surface.writes.count == 3)
    }

    @Test("an access that crosses from memory to a device reaches both")
    func crossing() throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.put(Self.entry + 8, UInt64(0xD000_0003))
        machine.put(0x60_0FFE, UInt16(0xAABB))
        #expect(try cpu.load(Self.page + 0xFFE, as: UInt32.self) == 0x0100_AABB)
        try cpu.store(Self.page + 0xFFE, 0x1122_3344 as UInt32)
        #expect(machine.get(0x60_0FFE, as: UInt16.self) == 0x3344)
        #expect(machine.surface.writes == [.init(address: 0xD000_0000, size: 2, value: 0x1122)])
    }

    @Test("blocks of bytes: across pages, devices, and all or nothing")
    func bytes() throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        machine.put(Self.entry + 8, UInt64(0x70_0003))
        let image = UnsafeMutableRawPointer.allocate(byteCount: 1024, alignment: 1)
        defer { unsafe image.deallocate() }
        for index in 0..<512 {
            unsafe image.storeBytes(
                of: UInt8(truncatingIfNeeded: index), toByteOffset: index, as: UInt8.self)
        }
        let place = Self.page + 0x1000 - 100
        unsafe try cpu.writeBytes(place, 512, from: image)
        #expect(machine.get(0x60_0FFF, as: UInt8.self) == 99)
        #expect(machine.get(0x70_0000, as: UInt8.self) == 100)
        unsafe try cpu.readBytes(place, 512, into: image + 512)
        let isEqual = (0..<512).allSatisfy {
            unsafe image.load(fromByteOffset: 512 + $0, as: UInt8.self)
                == UInt8(truncatingIfNeeded: $0)
        }
        #expect(isEqual)
        machine.put(Self.entry + 8, UInt64(0x70_0001))
        cpu.flushTLB()
        #expect(fault { () throws(Fault) in try cpu.probeWrite(place, size: 512) } == .pageFault(3))
    }

    @Test(
        "pages with code are written slowly, and fast again without, however they are written",
        arguments: [4, 16, 0])
    func codePages(size: Int) throws {
        let machine = try machine()
        let cpu = machine.cpu
        defer { withExtendedLifetime(machine) {} }
        try cpu.store(Self.page, 1 as UInt32)
        #expect(unsafe cpu.writableHost(Self.page, size: 4) != nil)
        cpu.markCode(physical: 0x60_0000)
        #expect(unsafe cpu.writableHost(Self.page, size: 4) == nil)
        cpu.unmarkCode(physical: 0x60_0000)
        let bytes: InlineArray<16, UInt8> = [
            2, 0, 0, 0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
        ]
        switch size {
        case 4: try cpu.store(Self.page, 2 as UInt32)
        case 16:
            unsafe try withUnsafePointer(to: bytes) { source throws(Fault) in
                unsafe try cpu.writeBytes(Self.page, 16, from: source)
            }
        default: try cpu.slowLockedModify(Self.page, UInt32.self) { _ in 2 }
        }
        #expect(unsafe cpu.writableHost(Self.page, size: 4) != nil)
        #expect(machine.get(0x60_0000, as: UInt32.self) == 2)
    }
}
