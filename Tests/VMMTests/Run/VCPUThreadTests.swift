import Accelerator
import Core
import Devices
import Synchronization
import TestSupport
import Testing

@testable import VMM

/// A CPU that stops for the reasons it is given, and otherwise runs until it is kicked.
private final class ScriptedCPU: VirtualCPU {
    let states = Mutex<[InitialCPUState]>([])
    private let script: Mutex<[VCPUExit]>
    private let kicks = Semaphore()

    init(_ script: [VCPUExit]) { self.script = Mutex(script) }

    func setInitialState(_ state: InitialCPUState) { states.withLock { $0.append(state) } }

    func run() -> VCPUExit {
        if let next = script.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) { return next }
        kicks.wait()
        return .kicked
    }

    func kick() { kicks.signal() }

    var retiredInstructions: UInt64 { 42 }
}

@Suite("vCPU threads")
struct VCPUThreadTests {
    let loop: EventLoop
    let reports = Reports()

    final class Reports: Sendable {
        let all = Mutex<[String]>([])
        var texts: [String] { all.withLock { $0 } }
    }

    init() throws { loop = try EventLoop() }

    private func makeThread(_ cpu: ScriptedCPU) throws -> VCPUThread {
        let thread = VCPUThread(index: 0, cpu: cpu, willRun: {}) { [loop, reports] _, exit in
            reports.all.withLock { $0.append("\(exit)") }
            loop.post {}
        }
        try thread.launch()
        return thread
    }

    @Test("a CPU runs when it is told to, reports, and waits")
    func orders() throws {
        let cpu = ScriptedCPU([.effect(.reset), .tripleFault])
        let thread = try makeThread(cpu)
        #expect(reports.texts.isEmpty)
        thread.prepare(.reset)
        thread.give(.resume)
        #expect(loop.run { reports.texts.count == 1 })
        thread.give(.resume)
        #expect(loop.run { reports.texts.count == 2 })
        #expect(reports.texts == ["effect(Accelerator.MachineEffect.reset)", "tripleFault"])
        #expect(cpu.states.withLock { $0 } == [.reset])
        #expect(thread.retiredInstructions == 42)
        thread.give(.end)
        thread.join()
    }

    @Test("a pause gets a running CPU to report, other kicks do not")
    func pause() throws {
        let cpu = ScriptedCPU([])
        let thread = try makeThread(cpu)
        thread.give(.resume)
        cpu.kick()
        loop.runOnce(timeoutMilliseconds: 50)
        #expect(reports.texts.isEmpty)
        thread.pause()
        #expect(loop.run { reports.texts == ["kicked"] })
        thread.give(.end)
        thread.join()
    }

    @Test("a vCPU's thread waits for what the control thread does for it")
    func perform() throws {
        let control = ControlThread(loop)
        let order = Mutex<[Int]>([])
        let isDone = Atomic<Bool>(false)
        // The loop has an owner only while it runs, so this comes from inside.
        let thread = Mutex<Core.Thread?>(nil)
        loop.post {
            let new = try? Core.Thread(name: "test") {
                control.perform { order.withLock { $0.append(1) } }
                order.withLock { $0.append(2) }
                isDone.store(true, ordering: .releasing)
                control.loop.post {}
            }
            thread.withLock { $0 = new }
        }
        #expect(loop.run { isDone.load(ordering: .acquiring) })
        #expect(order.withLock { $0 } == [1, 2])
        thread.withLock { $0 }?.join()
    }
}
