@testable import TCG

/// Random code in every mode, with page tables and descriptors that the input has bent.
struct InterpreterTarget: FuzzTarget {
    static let name = "interpreter"
    static let about = "random code in all modes; the CPU's state stays possible"

    private static let limit: UInt64 = 2000
    private let watchdog: Watchdog

    init() throws { watchdog = try Watchdog() }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let world = try FuzzWorld(cpuCount: 1 + input.below(2))
        try world.enter(input.pick(FuzzWorld.Mode.allCases), &input)
        let isSingle = input.rarely(4)
        world.fill(&input)
        let cpu = world.vcpu.cpu
        if isSingle {
            cpu.execute(count: Int(Self.limit))
            // The tables that are checked below hold all that was looked up.
            cpu.fields.pendingEffect = 0
        } else {
            watchdog.watch(world.vcpu) { runBlocks(world.vcpu) }
        }
        try world.check()
        return cpu.fields.retired > 3
    }

    /// Runs blocks until the limit is reached or the CPU halts.
    private func runBlocks(_ vcpu: TCGVCPU) {
        let cpu = vcpu.cpu
        for _ in 0..<100 {
            guard cpu.fields.retired < Self.limit, !watchdog.hasBarked else { return }
            cpu.fields.budget = Int64(Self.limit - cpu.fields.retired)
            // The kick makes `execute` return as soon as it looks after anything.
            vcpu.kick()
            vcpu.block.clearExitRequest()
            cpu.execute()
            _ = vcpu.run()
            cpu.fields.pendingEffect = 0
            if cpu.fields.isShutDown { return }
            if cpu.serviceInterrupts(), cpu.fields.isHalted || cpu.fields.isShutDown { return }
            if vcpu.isWaitingForStartUp { return }
        }
    }
}
