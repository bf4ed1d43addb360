import Accelerator
import CNativeRun
import Core
import Synchronization
import Testing

@testable import TCG

/// Two CPUs that run at the same time on threads of their own.
@Suite("Several CPUs")
struct MultiprocessorTests {
    static let powerOff: [UInt8] = [0xE6, 0xF4, 0xF4]

    /// Runs both CPUs in 64-bit mode from RIP until each has written to port F4 or, after a long
    /// time, was kicked. Returns how each ended.
    func run(_ machine: BareMachine) throws -> [String] {
        try machine.enterLong()
        let (first, second) = (machine.cpus[0].cpu, machine.cpus[1].cpu)
        machine.cpus[1].setInitialState(
            .linux64(
                entry: first.rip, bootParameters: 0, pageTables: BareMachine.tables,
                gdt: .init(base: BareMachine.gdt, limit: 0x1FF), stack: 0x8000))
        for number in UInt8(0)..<16 where number != 4 { second[number] = first[number] }
        second[5] = 1  // rbp: which CPU
        let results = Mutex<[String]>(["", ""])
        let threads = try machine.cpus.enumerated().map { index, cpu in
            try Thread(name: "cpu\(index)") {
                let exit = cpu.run()
                results.withLock { $0[index] = "\(exit)" }
            }
        }
        for thread in threads { thread.join() }
        return results.withLock { $0 }
    }

    static let ended = Array(repeating: "effect(Accelerator.MachineEffect.powerOff)", count: 2)

    /// Each CPU repeats `body` `rounds` times; R15 counts, RDI is the operand.
    func hammer(
        _ body: [UInt8], at operand: UInt64, rounds: UInt32 = 100_000
    ) throws -> BareMachine {
        let machine = try BareMachine(clock: .host, cpuCount: 2)
        var code: [UInt8] = [0x41, 0xBF]  // mov r15d, rounds
        code += (0..<4).map { UInt8(truncatingIfNeeded: rounds >> (8 * $0)) }
        code += body
        code += [0x41, 0xFF, 0xCF, 0x0F, 0x85]  // dec r15d; jnz
        let back = UInt32(bitPattern: Int32(-(body.count + 9)))
        code += (0..<4).map { UInt8(truncatingIfNeeded: back >> (8 * $0)) }
        machine.put(0x5000, bytes: code + Self.powerOff)
        machine.cpu[7] = operand
        #expect(try run(machine) == Self.ended)
        return machine
    }

    @Test(
        "LOCK INC loses nothing: aligned, in a page with code, across cache lines, across pages",
        arguments: [0x20_0000, 0x5800, 0x20_003E, 0x20_0FFE] as [UInt64])
    func increments(operand: UInt64) throws {
        let machine = try hammer([0xF0, 0xFF, 0x07], at: operand)  // lock inc dword [rdi]
        #expect(machine.get(operand, as: UInt32.self) == 200_000)
    }

    @Test("LOCK XADD, BTC and CMPXCHG16B lose nothing")
    func others() throws {
        let sum = try hammer(
            [0xB8, 0x03, 0x00, 0x00, 0x00, 0xF0, 0x0F, 0xC1, 0x07], at: 0x20_0000)
        #expect(sum.get(0x20_0000, as: UInt32.self) == 600_000)

        // mov eax, ebp; lock btc [rdi], eax: each CPU its own bit, an even number of times
        let bits = try hammer([0x89, 0xE8, 0xF0, 0x0F, 0xBB, 0x07], at: 0x20_0000)
        #expect(bits.get(0x20_0000, as: UInt32.self) == 0)

        let pair = try hammer(
            [
                // mov rax, [rdi]; mov rdx, [rdi + 8]
                0x48, 0x8B, 0x07, 0x48, 0x8B, 0x57, 0x08,
                // again: mov rbx, rax; mov rcx, rdx; add rbx, 1; add rcx, 2
                0x48, 0x89, 0xC3, 0x48, 0x89, 0xD1, 0x48, 0x83, 0xC3, 0x01, 0x48, 0x83, 0xC1, 0x02,
                0xF0, 0x48, 0x0F, 0xC7, 0x0F, 0x75, 0xEB,  // lock cmpxchg16b [rdi]; jnz again
            ], at: 0x20_0000)
        #expect(pair.get(0x20_0000, as: UInt64.self) == 200_000)
        #expect(pair.get(0x20_0008, as: UInt64.self) == 400_000)
    }

    @Test("a LOCKed access across cache lines leaves the bytes beside it alone")
    func besideSplit() throws {
        let machine = try hammer(
            [
                0xF0, 0xFF, 0x07,  // lock inc dword [rdi]
                0xFE, 0x44, 0xEF, 0xFC,  // inc byte [rdi + 8 * rbp - 4]: each CPU its own
            ], at: 0x20_003E)
        #expect(machine.get(0x20_003E, as: UInt32.self) == 200_000)
        #expect(machine.get(0x20_003A, as: UInt8.self) == 100_000 & 0xFF)
        #expect(machine.get(0x20_0042, as: UInt8.self) == 100_000 & 0xFF)
    }

    @Test("XCHG is a lock, also across lines and pages, with a plain store to release it")
    func spinLock() throws {
        for operand in [0x20_0000, 0x20_003E, 0x20_0FFE] as [UInt64] {
            let machine = try hammer(
                [
                    0xB8, 0x01, 0x00, 0x00, 0x00, 0x87, 0x07,  // again: mov eax, 1; xchg [rdi], eax
                    0x85, 0xC0, 0x75, 0xF5,  // test eax, eax; jnz again
                    0xFF, 0x04, 0x25, 0x00, 0x00, 0x30, 0x00,  // inc dword [300000]
                    0xC7, 0x07, 0x00, 0x00, 0x00, 0x00,  // mov dword [rdi], 0
                ], at: operand)
            #expect(machine.get(0x30_0000, as: UInt32.self) == 200_000)
        }
    }

    @Test("a CPU that spins with PAUSE lets the one run that it waits for")
    func pause() throws {
        let retired = Mutex<[UInt64]>([])
        // With both CPUs on one of the host's, which runs one of them at a time.
        let thread = try Thread(name: "one-cpu") {
            guard native_stay_on_one_cpu() == 0 else { return }
            let machine = try? hammer(
                [
                    0x39, 0x2F, 0x74, 0x04,  // again: cmp [rdi], ebp; je over the next line
                    0xF3, 0x90, 0xEB, 0xF8,  // pause; jmp again
                    // mov eax, 1; sub eax, ebp; mov [rdi], eax: the other one's turn
                    0xB8, 0x01, 0x00, 0x00, 0x00, 0x29, 0xE8, 0x89, 0x07,
                ], at: 0x20_0000, rounds: 500)
            let counts = machine?.cpus.map { $0.cpu.fields.retired } ?? []
            retired.withLock { $0 = counts }
        }
        thread.join()
        let counts = retired.withLock { $0 }
        try #require(counts.count == 2)
        // A CPU that spins until its time is up does a million instructions in each round.
        #expect(counts.allSatisfy { $0 < 5_000_000 }, "\(counts) instructions")
    }

    @Test("a CPU runs the code that another has written, as soon as it sees what came after")
    func modifiedCode() throws {
        // CPU 1 calls 6000 (mov eax, n; ret) until it sees [200000] = 1, then once more. CPU 0
        // waits until that runs, changes n, and then sets [200000]. A thousand rounds.
        let machine = try BareMachine(clock: .host, cpuCount: 2)
        machine.put(0x6000, bytes: [0xB8, 0x00, 0x00, 0x00, 0x00, 0xC3])
        machine.put(
            0x5000,
            bytes: [
                0x41, 0xBF, 0x01, 0x00, 0x00, 0x00,  // mov r15d, 1
                0x85, 0xED, 0x75, 0x2F,  // test ebp, ebp; jnz other
                // round: wait until [200008] = r15: the other is running
                0x44, 0x39, 0x3C, 0x25, 0x08, 0x00, 0x20, 0x00, 0x75, 0xF6,
                0x44, 0x89, 0x3C, 0x25, 0x01, 0x60, 0x00, 0x00,  // mov [6001], r15d
                0x44, 0x89, 0x3C, 0x25, 0x00, 0x00, 0x20, 0x00,  // mov [200000], r15d
                0x41, 0xFF, 0xC7,  // inc r15d
                0x41, 0x81, 0xFF, 0xE9, 0x03, 0x00, 0x00, 0x75, 0xDA,  // cmp r15d, 1001; jne round
            ] + Self.powerOff + [0x90, 0x90, 0x90, 0x90, 0x90, 0x90] + [
                // other, at 5039: mov [200008], r15d
                0x44, 0x89, 0x3C, 0x25, 0x08, 0x00, 0x20, 0x00,
                0xE8, 0xBA, 0x0F, 0x00, 0x00,  // call: call 6000
                0x44, 0x39, 0x3C, 0x25, 0x00, 0x00, 0x20, 0x00, 0x75, 0xF1,  // until [200000] = r15
                0xE8, 0xAB, 0x0F, 0x00, 0x00,  // call 6000
                0x44, 0x39, 0xF8, 0x75, 0x0C,  // cmp eax, r15d; jne bad
                0x41, 0xFF, 0xC7,  // inc r15d
                0x41, 0x81, 0xFF, 0xE9, 0x03, 0x00, 0x00, 0x75, 0xD3,  // cmp r15d, 1001; jne other
            ] + Self.powerOff)
        #expect(try run(machine) == Self.ended)
        #expect(machine.cpus[1].cpu[15] == 1001)
    }
}
