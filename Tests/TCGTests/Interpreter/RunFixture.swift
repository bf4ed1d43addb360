@testable import TCG

extension BareMachine {
    /// Where test code lies, and the handler that every exception ends in.
    static let code: UInt64 = 0x5000
    static let handler: UInt64 = 0x7000

    /// A machine in 64-bit mode with `bytes` as code; all exceptions halt.
    static func running(
        _ bytes: [UInt8], cpl: UInt8 = 0, model: CPUModel.Name = .level2,
        tier: TCGOptions.Tier = .translator, showsStatistics: Bool = false,
        files: TCGFiles = TCGFiles(), codeCacheSize: UInt64? = nil
    ) throws -> BareMachine {
        let machine = try BareMachine(
            model: model, tier: tier, showsStatistics: showsStatistics, files: files,
            codeCacheSize: codeCacheSize)
        try machine.enterLong(cpl: cpl)
        machine.put(code, bytes: bytes)
        for vector in UInt8(0)..<32 {
            machine.setGate64(vector, handler + UInt64(vector))
            machine.put(handler + UInt64(vector), UInt8(0xF4))
        }
        return machine
    }

    /// Runs blocks until the CPU halts.
    func runUntilHalt() {
        cpu.budget = 1_000_000
        for _ in 0..<1000 where !cpu.fields.isHalted { cpu.execute() }
    }

    /// The vector of the exception that halted the CPU, and the frame's RIP.
    var exception: (vector: UInt64, rip: UInt64)? {
        guard cpu.fields.isHalted, cpu.rip > Self.handler, cpu.rip <= Self.handler + 32 else {
            return nil
        }
        let vector = cpu.rip - 1 - Self.handler
        let hasCode: Set<UInt64> = [8, 10, 11, 12, 13, 14, 17]
        return (vector, get(cpu[4] + (hasCode.contains(vector) ? 8 : 0), as: UInt64.self))
    }
}
