import Accelerator
import Core
import Synchronization

@testable import TCG

/// Records what a CPU does on the machine's buses.
final class RecordingSurface: ExitSurface {
    struct Access: Equatable {
        var address: UInt64
        var size: Int
        var value: UInt64
    }

    struct State {
        var writes: [Access] = []
        var reads: [Access] = []
        var endOfInterrupts: [UInt8] = []
        var portWrites: [Access] = []
    }

    let state = Mutex(State())

    func readPort(_ port: UInt16, size: Int) -> UInt32 { 0xA5A5_A5A5 }
    func writePort(_ port: UInt16, size: Int, _ value: UInt32) -> MachineEffect {
        state.withLock {
            $0.portWrites.append(
                Access(address: UInt64(port), size: size, value: UInt64(value)))
        }
        return port == 0xF4 ? .powerOff : .none
    }
    /// Every byte of a register is the low byte of its address.
    func readMMIO(_ address: GuestAddress, size: Int) -> UInt64 {
        var value: UInt64 = 0
        for index in 0..<UInt64(size) {
            value |= ((address.rawValue + index) & 0xFF) << (8 * index)
        }
        let access = Access(address: address.rawValue, size: size, value: value)
        state.withLock { $0.reads.append(access) }
        return value
    }
    func writeMMIO(_ address: GuestAddress, size: Int, _ value: UInt64) -> MachineEffect {
        let access = Access(address: address.rawValue, size: size, value: value)
        state.withLock { $0.writes.append(access) }
        return .none
    }
    func endOfInterrupt(vector: UInt8) { state.withLock { $0.endOfInterrupts.append(vector) } }

    var writes: [Access] { state.withLock { $0.writes } }
    var reads: [Access] { state.withLock { $0.reads } }
    var endOfInterrupts: [UInt8] { state.withLock { $0.endOfInterrupts } }
    var portWrites: [Access] { state.withLock { $0.portWrites } }
}

/// A machine of 8 MiB with one or more CPUs whose state tests set and look at directly.
final class BareMachine {
    static let memorySize: UInt64 = 8 << 20

    let memory: GuestMemory
    let surface = RecordingSurface()
    let machine: TCGVirtualMachine
    let cpus: [TCGVCPU]

    var vcpu: TCGVCPU { cpus[0] }
    var cpu: CPU { cpus[0].cpu }

    init(
        clock: TCGOptions.ClockSource = .counted, cpuCount: Int = 1,
        model: CPUModel.Name = .level2, tier: TCGOptions.Tier = .translator,
        showsStatistics: Bool = false, files: TCGFiles = TCGFiles(), codeCacheSize: UInt64? = nil
    ) throws {
        let mapping = try MemoryMapping(anonymous: Int(Self.memorySize))
        let region = GuestRegion(
            start: GuestAddress(0), size: Self.memorySize, mapping: mapping)
        memory = try GuestMemory([region!])
        machine = TCGVirtualMachine(
            memory: memory, surface: surface,
            options: TCGOptions(
                clock: clock, cpuCount: cpuCount, tier: tier, model: model,
                showsStatistics: showsStatistics, codeCacheSize: codeCacheSize), files: files)
        var cpus: [TCGVCPU] = []
        for index in 0..<cpuCount {
            let vcpu = try machine.makeCPU(index: index)
            // 64-bit code is translated at once.
            vcpu.cpu.fields.translationThreshold = 0
            cpus.append(vcpu)
        }
        self.cpus = cpus
    }

    func put<T: FixedWidthInteger & BitwiseCopyable>(_ address: UInt64, _ value: T) {
        try! memory.write(GuestAddress(address), value)
    }

    func get<T: FixedWidthInteger & BitwiseCopyable>(_ address: UInt64, as type: T.Type) -> T {
        try! memory.read(GuestAddress(address), as: type)
    }

    func put(_ address: UInt64, bytes: [UInt8]) {
        try! memory.write(GuestAddress(address), bytes)
    }

    // MARK: Ready-made worlds

    static let gdt: UInt64 = 0x1000
    static let idt: UInt64 = 0x2000
    static let tss: UInt64 = 0x3000
    static let stack: UInt64 = 0x9000
    static let tables: UInt64 = 0x10_0000

    enum Selector {
        static let code64: UInt16 = 0x08
        static let data: UInt16 = 0x10
        static let code32: UInt16 = 0x18
        static let userData: UInt16 = 0x23
        static let userCode64: UInt16 = 0x2B
        static let userCode32: UInt16 = 0x33
        static let task: UInt16 = 0x38
        /// The first free slot (the TSS takes two in long mode).
        static let free: UInt16 = 0x48
    }

    func setDescriptor(_ selector: UInt16, _ value: UInt64) {
        put(Self.gdt + UInt64(selector & ~7), value)
    }

    /// Descriptor tables that both worlds use.
    private func buildTables() {
        let cpu = cpu
        setDescriptor(Selector.code64, 0x00AF_9B00_0000_FFFF)
        setDescriptor(Selector.data, 0x00CF_9300_0000_FFFF)
        setDescriptor(Selector.code32, 0x00CF_9B00_0000_FFFF)
        setDescriptor(Selector.userData, 0x00CF_F300_0000_FFFF)
        setDescriptor(Selector.userCode64, 0x00AF_FB00_0000_FFFF)
        setDescriptor(Selector.userCode32, 0x00CF_FB00_0000_FFFF)
        setDescriptor(Selector.task, 0x0000_8900_0000_0067 | Self.tss << 16)
        cpu.fields.gdtr = TableRegister(base: Self.gdt, limit: 0x1FF)
        cpu.fields.idtr = TableRegister(base: Self.idt, limit: 0xFFF)
    }

    /// 32-bit protected mode at CPL 0 or 3, no paging, stacks below 0x9000.
    func enterProtected(cpl: UInt8 = 0) throws {
        let cpu = cpu
        buildTables()
        cpu.fields.cr0 = CR0.pe | CR0.et | CR0.ne
        cpu.updateMode()
        try cpu.loadTaskRegister(selector: Selector.task)
        put(Self.tss + 4, UInt32(Self.stack))
        put(Self.tss + 8, UInt32(Selector.data))
        setSegments(
            code: cpl == 0 ? Selector.code32 : Selector.userCode32,
            data: cpl == 0 ? Selector.data : Selector.userData, codeAttributes: 0xC09B, cpl: cpl)
        cpu[4] = Self.stack - 0x800
        cpu.rip = 0x5000
    }

    /// 64-bit mode with an identity map of the first 8 MiB (2 MiB pages, user, writable).
    func enterLong(cpl: UInt8 = 0) throws {
        let cpu = cpu
        buildTables()
        let tables = Self.tables
        put(tables, tables + 0x1000 | 7)
        put(tables + 0x1000, tables + 0x2000 | 7)
        for page in UInt64(0)..<4 { put(tables + 0x2000 + page * 8, page << 21 | 0x87) }
        cpu.fields.cr4 = CR4.pae | CR4.osfxsr
        cpu.fields.cr3 = tables
        cpu.fields.efer = EFER.lme | EFER.lma | EFER.nxe | EFER.sce
        cpu.fields.cr0 = CR0.pe | CR0.pg | CR0.et | CR0.ne | CR0.wp
        cpu.fields.isLongMode = true
        cpu.flushTLB()
        cpu.updateMode()
        try cpu.loadTaskRegister(selector: Selector.task)
        put(Self.tss + 4, Self.stack)
        setSegments(
            code: cpl == 0 ? Selector.code64 : Selector.userCode64,
            data: cpl == 0 ? Selector.data : Selector.userData, codeAttributes: 0xA09B, cpl: cpl)
        cpu[4] = Self.stack - 0x800
        cpu.rip = 0x5000
    }

    private func setSegments(code: UInt16, data: UInt16, codeAttributes: UInt32, cpl: UInt8) {
        let level = UInt32(cpl) << 5
        for register in [UInt8(0), 2, 3, 4, 5] {
            cpu.setSegment(
                register, Segment(selector: data, attributes: 0xC093 | level, limit: .max))
        }
        cpu.setSegment(
            SegmentRegister.cs,
            Segment(selector: code, attributes: codeAttributes | level, limit: .max))
        cpu.fields.cpl = cpl
        cpu.updateMode()
    }

    /// An IDT entry of 8 bytes: type 14 interrupt, 15 trap, 6 and 7 their 16-bit forms.
    func setGate32(
        _ vector: UInt8, _ handler: UInt32, type: UInt64 = 14, dpl: UInt64 = 0,
        selector: UInt16 = Selector.code32
    ) {
        let low = UInt64(handler & 0xFFFF) | UInt64(selector) << 16
        let high = UInt64(handler >> 16) << 48
        put(Self.idt + UInt64(vector) * 8, low | high | (0x80 | dpl << 5 | type) << 40)
    }

    /// An IDT entry of 16 bytes.
    func setGate64(
        _ vector: UInt8, _ handler: UInt64, type: UInt64 = 14, dpl: UInt64 = 0,
        stackTable: UInt64 = 0, selector: UInt16 = Selector.code64
    ) {
        let low = (handler & 0xFFFF) | UInt64(selector) << 16 | stackTable << 32
        let place = Self.idt + UInt64(vector) * 16
        put(place, low | ((handler >> 16) & 0xFFFF) << 48 | (0x80 | dpl << 5 | type) << 40)
        put(place + 8, handler >> 32)
    }

    /// The 64-bit values of a frame at an address.
    func frame64(_ address: UInt64, count: Int) -> [UInt64] {
        (0..<count).map { get(address + 8 * UInt64($0), as: UInt64.self) }
    }

    func frame32(_ address: UInt64, count: Int) -> [UInt32] {
        (0..<count).map { get(address + 4 * UInt64($0), as: UInt32.self) }
    }
}

/// The fault that `body` throws, or `nil`.
func fault(_ body: () throws(Fault) -> Void) -> Fault? {
    do {
        try body()
        return nil
    } catch {
        return error
    }
}
