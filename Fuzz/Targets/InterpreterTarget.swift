@testable import TCG

/// Random code in every mode, with page tables and descriptors that the input has bent.
struct InterpreterTarget: FuzzTarget {
    static let name = "interpreter"
    static let about = "random code in all modes; the CPU's state stays possible"

    /// Pieces of code of all sorts, in every mode, with one CPU and with two.
    static let seeds: [[UInt8]] = FuzzWorld.Mode.allCases.indices.flatMap { mode in
        code.enumerated().map { index, code in
            FuzzSeed.make { seed in
                seed.choose(index % 2, of: 2)
                seed.choose(mode, of: FuzzWorld.Mode.allCases.count)
                seed.putZeroes(2)
                for register in 0..<16 {
                    seed.put(false)
                    seed.put(UInt16(0x100 * register))
                }
                seed.putZeroes(2)
                seed.choose(index % 3 == 0 ? 3 : 0, of: 4)
                seed.choose(0, of: 8)
                seed.put(index % 2 == 0)
                seed.put(code)
            }
        }
    }

    private static let code: [[UInt8]] = [
        // Arithmetic and flags, in registers and in memory; multiplication and division.
        [
            0x01, 0xc8, 0x11, 0x0b, 0x83, 0x2e, 5, 0xf7, 0xe1, 0xf7, 0xf1, 0xd3, 0xe0, 0x0f, 0xa5,
            0xd0,
        ],
        // The stack, calls and loops.
        [
            0x50, 0x5b, 0x9c, 0x9d, 0xe8, 1, 0, 0, 0, 0x58, 0xb9, 3, 0, 0, 0, 0xe2, 0xfe, 0xc8, 8,
            0, 1,
        ],
        // Strings.
        [0xb9, 4, 0, 0, 0, 0xf3, 0xa4, 0xf3, 0xab, 0xfd, 0xf2, 0xae, 0xfc, 0xa6, 0xac, 0x6c, 0x6e],
        // Interrupts and returns from them.
        [0xcc, 0xcd, 0x80, 0xfa, 0xfb, 0xcf, 0x0f, 0x0b],
        // System instructions: CPUID, control registers, MSRs, descriptor tables.
        [
            0x0f, 0xa2, 0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0, 0x0f, 0x32, 0x0f, 0x30, 0x0f, 1, 0x13,
            0x0f, 0x31,
        ],
        // x87, MMX and SSE.
        [
            0xd9, 0xe8, 0xde, 0xc1, 0x0f, 0xef, 0xc0, 0x0f, 0x58, 0xc1, 0x66, 0x0f, 0xfe, 0x03,
            0x0f, 0xae, 0x03,
        ],
        // LOCKed instructions.
        [0xf0, 0x0f, 0xb1, 0x0b, 0xf0, 0x0f, 0xc7, 0x0b, 0xf0, 0x01, 0x43, 0x7e, 0x87, 0x03],
        // Code that changes itself.
        [0xc6, 0x05, 0, 0, 0, 0, 0x90, 0xe8, 0, 0, 0, 0, 0x5b, 0xc6, 0x43, 8, 0x40, 0xeb, 0, 0xcc],
        // Segments, far transfers, call gates, tasks.
        [
            0xb8, 0x10, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xe0, 0x9a, 0, 0, 0, 0, 0x58, 0, 0xea, 0, 0, 0,
            0, 0x68, 0,
        ],
        // System calls.
        [0x0f, 0x05, 0x0f, 0x07, 0x0f, 0x34, 0x0f, 0x35, 0x0f, 1, 0xf8],
    ]
    static let testCount = 1000

    private static let limit: UInt64 = 256
    private let watchdog: Watchdog
    private let worlds: [FuzzWorld]

    init() throws {
        watchdog = try Watchdog()
        worlds = [try FuzzWorld(cpuCount: 1), try FuzzWorld(cpuCount: 2)]
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let world = worlds[input.below(2)]
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
            cpu.budget = Int64(Self.limit - cpu.fields.retired)
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
