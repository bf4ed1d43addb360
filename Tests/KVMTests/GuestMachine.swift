import Accelerator
import Core
import KVM
import Synchronization
import TCG
import TestSupport

/// Who runs a bare guest.
enum Provider: String, Sendable, CustomStringConvertible {
    case kvm, tcg

    var description: String { rawValue }

    /// Whether this host has a KVM that we can use, at least for bare guests.
    static let hasKVM = (try? KVMHost()) != nil
    /// Whether the host's KVM is emulated, and needs the fallback even for common instructions.
    static let isKVMEmulated = (try? KVMHost())?.shortcoming != nil
}

/// A machine of 16 MiB for programs of a few hundred bytes: 64-bit mode, the first 4 GiB mapped to
/// themselves and open to processes, an IDT, and buses that record.
final class GuestMachine {
    static let gdt: UInt64 = 0x500
    static let idtPointer: UInt64 = 0x600
    static let idt: UInt64 = 0x2000
    static let code: UInt64 = 0x5000
    static let stack: UInt64 = 0x9000
    static let tables: UInt64 = 0x1_0000
    /// Below: all of the above and what programs use; above: free for `scratch`.
    static let programEnd: UInt64 = 4 << 20

    let provider: Provider
    let scratch: ScratchMemory
    let surface = TestSurface()
    let machine: any VirtualMachine
    let cpus: [any VirtualCPU]
    /// Interrupts that the provider does not bind: descriptors that we watch ourselves.
    private var watchers: [Watcher] = []

    var memory: GuestMemory { scratch.memory }
    var kvmMachine: KVMVirtualMachine? { machine as? KVMVirtualMachine }
    var kvmCPU: KVMVCPU? { cpus[0] as? KVMVCPU }

    /// - Parameter fallback: what KVM falls back to, made of the product's.
    init(
        _ provider: Provider, cpuCount: Int = 1,
        fallback: (TCGFallback) -> (any InstructionFallback)? = { $0 }
    ) throws {
        self.provider = provider
        scratch = try ScratchMemory([(start: 0, size: 16 << 20)])
        _ = scratch.allocate(Int(Self.programEnd))
        switch provider {
        case .kvm:
            let own = TCGFallback(memory: scratch.memory, surface: surface, cpuCount: cpuCount)
            machine = try KVMAccelerator(
                try KVMHost(), cpuCount: cpuCount, fallback: fallback(own)
            )
            .makeVirtualMachine(memory: scratch.memory, surface: surface)
        case .tcg:
            machine = try TCGAccelerator(options: TCGOptions(cpuCount: cpuCount))
                .makeVirtualMachine(memory: scratch.memory, surface: surface)
        }
        var cpus: [any VirtualCPU] = []
        for index in 0..<cpuCount { cpus.append(try machine.makeVCPU(index: index)) }
        self.cpus = cpus
        try buildTables()
    }

    deinit { for watcher in watchers { watcher.stop() } }

    func put<T: FixedWidthInteger & BitwiseCopyable>(_ address: UInt64, _ value: T) throws {
        try memory.write(GuestAddress(address), value)
    }

    func get<T: FixedWidthInteger & BitwiseCopyable>(
        _ address: UInt64, as type: T.Type
    ) throws -> T {
        try memory.read(GuestAddress(address), as: type)
    }

    func put(_ code: GuestCode) throws { try memory.write(GuestAddress(code.start), code.bytes) }

    private func buildTables() throws {
        let descriptors: [UInt64] = [
            0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF,
            // For processes.
            0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF,
        ]
        for (index, entry) in descriptors.enumerated() {
            try put(Self.gdt + 8 * UInt64(index), entry)
        }
        // The stack for what interrupts a process: the TSS is at 0.
        try put(4, Self.stack)
        try put(Self.idtPointer, 0xFFF as UInt16)
        try put(Self.idtPointer + 2, Self.idt)
        let pointers = Self.tables + 0x1000
        try put(Self.tables, pointers | 7)
        for table in 0..<4 as Range<UInt64> {
            let directory = pointers + 0x1000 * (table + 1)
            try put(pointers + 8 * table, directory | 7)
            for page in 0..<512 as Range<UInt64> {
                try put(directory + 8 * page, (table << 30 | page << 21) | 0x87)
            }
        }
    }

    /// Lets a vector lead to a handler.
    func setGate(_ vector: UInt8, _ handler: UInt64) throws {
        let place = Self.idt + UInt64(vector) * 16
        try put(place, handler & 0xFFFF | 0x10 << 16 | 0x8E << 40 | (handler >> 16 & 0xFFFF) << 48)
        try put(place + 8, handler >> 32)
    }

    /// Lets a vector lead to a handler at 0x6000 that counts in EBX.
    func countInterrupts(vector: UInt8) throws {
        var handler = GuestCode(at: 0x6000)
        GuestProgram.count(&handler)
        try put(handler)
        try setGate(vector, handler.start)
    }

    var initialState: InitialCPUState {
        .linux64(
            entry: Self.code, bootParameters: 0, pageTables: Self.tables,
            gdt: .init(base: Self.gdt, limit: 47), stack: Self.stack)
    }

    // MARK: Running

    /// How a run ended.
    enum End: Equatable {
        case exit(String)
        case timeout

        static let powerOff = End.exit("effect(Accelerator.MachineEffect.powerOff)")
        static let tripleFault = End.exit("tripleFault")
    }

    /// Starts all CPUs and waits for the first one's end. A minute is far more than any program
    /// takes, even on a loaded host with an emulated KVM.
    func run(_ initial: InitialCPUState? = nil, seconds: UInt32 = 60) throws -> End {
        cpus[0].setInitialState(initial ?? initialState)
        for cpu in cpus.dropFirst() { cpu.setInitialState(.reset) }
        return try resume(seconds: seconds)
    }

    /// Lets the CPUs go on where they are.
    func resume(seconds: UInt32 = 60) throws -> End {
        let isOver = Atomic<Bool>(false)
        let result = Mutex<String?>(nil)
        var threads: [Thread] = []
        for (index, cpu) in cpus.enumerated() {
            threads.append(
                try Thread(name: "vcpu\(index)", stackSize: 1 << 20) {
                    while true {
                        let exit = cpu.run()
                        if case .kicked = exit, !isOver.load(ordering: .acquiring) { continue }
                        if index == 0 { result.withLock { $0 = "\(exit)" } }
                        return
                    }
                })
        }
        var waited: UInt32 = 0
        while result.withLock({ $0 == nil }), waited < seconds * 1000 {
            Clock.sleep(milliseconds: 1)
            waited += 1
        }
        let end = result.withLock { $0 }
        isOver.store(true, ordering: .releasing)
        for cpu in cpus { cpu.kick() }
        for thread in threads { thread.join() }
        return end.map { .exit($0) } ?? .timeout
    }

    // MARK: What the machine does where the provider does not

    func bindNotify(_ event: EventFD, at address: UInt64) {
        guard !machine.bindNotify(event, address: GuestAddress(address)) else { return }
        surface.notifies.withLock { $0[address] = event }
    }

    func bindInterrupt(_ event: EventFD, vector: UInt8) throws {
        let address: UInt64 = 0xFEE0_0000
        if machine.bindInterrupt(event, address: address, data: UInt32(vector)) { return }
        watchers.append(
            try Watcher(event) { [machine] in
                machine.signalMSI(address: address, data: UInt32(vector))
            })
    }
}

/// A thread that waits for an event.
final class Watcher: Sendable {
    private let isOver: SharedFlag
    private let thread: Thread

    final class SharedFlag: Sendable {
        let value = Atomic<Bool>(false)
    }

    convenience init(_ event: EventFD, _ handler: @escaping @Sendable () -> Void) throws {
        try self.init {
            if event.drain() { handler() } else { Clock.sleep(milliseconds: 1) }
        }
    }

    /// For a handler that empties the event itself.
    convenience init(peeking event: EventFD, _ handler: @escaping @Sendable () -> Void) throws {
        try self.init {
            handler()
            Clock.sleep(milliseconds: 1)
        }
    }

    private init(round: @escaping @Sendable () -> Void) throws {
        let isOver = SharedFlag()
        self.isOver = isOver
        thread = try Thread(name: "watcher") {
            while !isOver.value.load(ordering: .acquiring) { round() }
        }
    }

    func stop() {
        isOver.value.store(true, ordering: .releasing)
        thread.join()
    }
}
