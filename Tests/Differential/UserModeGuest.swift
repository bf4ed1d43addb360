import Accelerator
import Core

@testable import TCG

/// A guest that runs user-mode code at the same addresses as the native run does, and halts at the
/// first exception, so that the exception's frame shows how it ended.
// SAFETY: all pointers lead into the guest's memory, which this object keeps mapped.
@safe final class UserModeGuest {
    static let dataBase: UInt64 = 0x1000_0000
    static let dataSize: UInt64 = 0x2000
    static let codeBase: UInt64 = 0x2000_0000
    static let codeSize: UInt64 = 0x2000
    /// Where the code is as well, above 4 GiB, where blocks move.
    static let otherCodeBases: [UInt64] =
        (0..<12).flatMap { [0x700_0000_0000 + $0 * 0x4000, 0x6400_0000_0000 + $0 * 0x4000] }
    /// Low memory, present for the supervisor only; natively there is nothing.
    static let lowSize: UInt64 = 0x20000

    // Low memory: tables and handlers, for the supervisor only.
    private static let gdt: UInt64 = 0x1000
    private static let idt: UInt64 = 0x2000
    private static let tss: UInt64 = 0x3000
    private static let handlers: UInt64 = 0x4000
    private static let stackTop: UInt64 = 0x9000
    private static let pageTables: UInt64 = 0x10000

    let machine: TCGVirtualMachine
    let vcpu: TCGVCPU
    let memory: GuestMemory
    let data: UnsafeMutableRawPointer
    let code: UnsafeMutableRawPointer
    private let low: UnsafeMutableRawPointer

    var cpu: CPU { vcpu.cpu }

    private final class NoDevices: ExitSurface {
        func readPort(_ port: UInt16, size: Int) -> UInt32 { .max }
        func writePort(_ port: UInt16, size: Int, _ value: UInt32) -> MachineEffect { .none }
        func readMMIO(_ address: GuestAddress, size: Int) -> UInt64 { .max }
        func writeMMIO(_ address: GuestAddress, size: Int, _ value: UInt64) -> MachineEffect {
            .none
        }
        func endOfInterrupt(vector: UInt8) {}
    }

    init(tier: TCGOptions.Tier = .interpreter) throws {
        func region(_ start: UInt64, _ size: UInt64) throws -> GuestRegion {
            let mapping = try MemoryMapping(anonymous: Int(size))
            guard let region = GuestRegion(start: GuestAddress(start), size: size, mapping: mapping)
            else { throw GuestMemoryError.overlap(GuestAddress(start)) }
            return region
        }
        let regions = [
            try region(0, Self.lowSize), try region(Self.dataBase, Self.dataSize),
            try region(Self.codeBase, Self.codeSize),
        ]
        memory = try GuestMemory(regions)
        unsafe low = regions[0].base
        unsafe data = regions[1].base
        unsafe code = regions[2].base
        machine = TCGVirtualMachine(
            memory: memory, surface: NoDevices(),
            options: TCGOptions(clock: .counted, tier: tier, model: .max))
        vcpu = try machine.makeCPU(index: 0)
        // Everything is translated at once.
        vcpu.cpu.fields.translationThreshold = tier == .interpreter ? -1 : 0
        buildTables()
        loadState()
    }

    private func put(_ address: UInt64, _ value: UInt64) {
        unsafe low.storeBytes(of: value, toByteOffset: Int(address), as: UInt64.self)
    }

    private func buildTables() {
        // Null, kernel code, kernel data, (unused), user data 0x23, user code 0x2B, TSS 0x30.
        put(Self.gdt + 0x08, 0x00AF_9B00_0000_FFFF)
        put(Self.gdt + 0x10, 0x00CF_9300_0000_FFFF)
        put(Self.gdt + 0x20, 0x00CF_F300_0000_FFFF)
        put(Self.gdt + 0x28, 0x00AF_FB00_0000_FFFF)
        put(Self.gdt + 0x30, 0x0000_8B00_0000_0067 | Self.tss << 16)
        put(Self.tss + 4, Self.stackTop)
        // No I/O permission bitmap.
        put(Self.tss + 0x60, 0x68 << 48)
        for vector in UInt64(0)..<32 {
            let handler = Self.handlers + vector * 16
            // An interrupt gate; INT3 and INTO are for user mode, as with Linux.
            let attributes: UInt64 = vector == 3 || vector == 4 ? 0xEE00 : 0x8E00
            put(Self.idt + vector * 16, handler & 0xFFFF | 0x08 << 16 | attributes << 32)
            put(Self.idt + vector * 16 + 8, 0)
            put(handler, 0xF4)  // hlt
        }
        let tables = Self.pageTables
        put(tables, tables + 0x1000 | 7)
        put(tables + 0x1000, tables + 0x2000 | 7)
        // 0-2 MiB: one page table for the supervisor.
        put(tables + 0x2000, tables + 0x3000 | 7)
        for page in UInt64(0)..<0x20 { put(tables + 0x3000 + page * 8, page << 12 | 3) }
        put(tables + 0x2000 + (Self.dataBase >> 21) * 8, tables + 0x4000 | 7)
        for page in 0..<Self.dataSize >> 12 {
            put(tables + 0x4000 + page * 8, Self.dataBase + page << 12 | 7 | 1 << 63)
        }
        put(tables + 0x2000 + (Self.codeBase >> 21) * 8, tables + 0x5000 | 7)
        for page in 0..<Self.codeSize >> 12 {
            put(tables + 0x5000 + page * 8, Self.codeBase + page << 12 | 7)
        }
        put(tables + 0x6000, tables + 0x7000 | 7)
        put(tables + 0x7000, tables + 0x8000 | 7)
        for base in Self.otherCodeBases {
            put(tables + (base >> 39 & 511) * 8, tables + 0x6000 | 7)
            for page in 0..<Self.codeSize >> 12 {
                let entry = tables + 0x8000 + (base >> 12 & 511 + page) * 8
                put(entry, Self.codeBase + page << 12 | 7)
            }
        }
    }

    private func loadState() {
        let state = unsafe cpu.state
        unsafe state.pointee.gdtr = TableRegister(base: Self.gdt, limit: 0x3F)
        unsafe state.pointee.idtr = TableRegister(base: Self.idt, limit: 0x1FF)
        var task = Segment()
        task.selector = 0x30
        task.base = Self.tss
        task.limit = 0x67
        task.attributes = 0x8B
        unsafe state.pointee.segments[Int(SegmentRegister.tr)] = task
        unsafe state.pointee.cr0 = 0x8001_0033
        unsafe state.pointee.cr3 = Self.pageTables
        unsafe state.pointee.cr4 = 0x620
        if vcpu.model.hasAVX {
            unsafe state.pointee.cr4 |= CR4.osxsave
            unsafe state.pointee.xcr0 = 7
        }
        unsafe state.pointee.efer = 0xD01
        unsafe state.pointee.isLongMode = true
    }

    /// Puts the CPU into user mode at an address, by itself the start of the code.
    func enterUserMode(at address: UInt64 = UserModeGuest.codeBase) {
        let state = unsafe cpu.state
        var codeSegment = Segment()
        codeSegment.selector = 0x2B
        codeSegment.limit = .max
        codeSegment.attributes = 0xA0FB
        var dataSegment = Segment()
        dataSegment.selector = 0x23
        dataSegment.limit = .max
        dataSegment.attributes = 0xC0F3
        unsafe state.pointee.segments[Int(SegmentRegister.cs)] = codeSegment
        for number in [SegmentRegister.ss, SegmentRegister.ds, SegmentRegister.es] {
            unsafe state.pointee.segments[Int(number)] = dataSegment
        }
        unsafe state.pointee.cpl = 3
        unsafe state.pointee.isHalted = false
        // As a process of Linux has them: a PUSHF that a wild jump finds shows IF.
        unsafe state.pointee.systemFlags = RFLAGS.interruptEnable | 2
        unsafe state.pointee.rip = address
        cpu.updateMode()
    }

    /// How a run ended, from the handler that halted and the frame it found.
    struct Ending {
        var vector: UInt64
        var error: UInt64
        var rip: UInt64
        var flags: UInt64
        var rsp: UInt64
    }

    /// Begins a new generation of code.
    func reloadCR3() { try? cpu.loadCR3(Self.pageTables) }

    /// More instructions than the host executes before a native run counts as one without an end.
    private static let limit: UInt64 = 60_000_000

    /// Runs until the first exception; `nil` if there was none within `limit` instructions. The CPU
    /// is left, and goes on, each time `slice` instructions have run.
    func run(slice: Int64 = 20_000) -> Ending? {
        unsafe cpu.state.pointee.pendingEffect = 1
        let start = cpu.fields.retired
        for _ in 0..<Self.limit {
            if cpu.fields.isHalted || cpu.fields.isShutDown { break }
            if cpu.fields.retired - start >= Self.limit { break }
            cpu.budget = slice
            vcpu.block.clearExitRequest()
            cpu.execute()
        }
        unsafe cpu.state.pointee.pendingEffect = 0
        vcpu.block.clearExitRequest()
        guard unsafe cpu.state.pointee.isHalted else { return nil }
        let rip = unsafe cpu.state.pointee.rip
        let vector = (rip - 1 - Self.handlers) / 16
        var frame = unsafe low + Int(truncatingIfNeeded: cpu[4])
        var error: UInt64 = 0
        if [8, 10, 11, 12, 13, 14, 17].contains(vector) {
            error = unsafe frame.load(as: UInt64.self)
            unsafe frame += 8
        }
        return unsafe Ending(
            vector: vector, error: error, rip: frame.load(as: UInt64.self),
            flags: frame.load(fromByteOffset: 16, as: UInt64.self),
            rsp: frame.load(fromByteOffset: 24, as: UInt64.self))
    }
}
