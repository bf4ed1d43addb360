import Accelerator
import Core
@testable import Devices
import Glibc
import Synchronization
import TestSupport
import Testing

/// A control plane on an event loop, as the machine has one.
// SAFETY: `tokens` is used on the loop's thread only.
private final class LoopControlPlane: ControlPlane, @unchecked Sendable {
    let loop: EventLoop
    private var tokens: [ObjectIdentifier: EventRegistration] = [:]

    init() throws { loop = try EventLoop() }

    func perform(_ work: @escaping @Sendable () -> Void) {
        if loop.isOnLoop { return work() }
        let isDone = Atomic<Bool>(false)
        let flag = Flag(isDone)
        loop.post {
            work()
            flag.value.store(true, ordering: .releasing)
        }
        while !flag.value.load(ordering: .acquiring) { sched_yield() }
    }

    private final class Flag: Sendable {
        let value: Atomic<Bool>
        init(_ value: consuming Atomic<Bool>) { self.value = value }
    }

    func watch(_ event: EventFD, _ handler: @escaping @Sendable () -> Void) {
        tokens[ObjectIdentifier(event)] = loop.watch(event.rawValue, for: .readable) { _ in
            handler()
        }
    }

    func unwatch(_ event: EventFD) {
        tokens.removeValue(forKey: ObjectIdentifier(event))?.cancel()
    }
}

@Suite("Several vCPUs at once")
struct ConcurrencyTests {
    @Test("hostile vCPUs and the control thread neither trap nor wait for each other for ever")
    func stress() throws {
        let control = try LoopControlPlane()
        let machine = FakeMachine(canBind: true)
        let device = RecordingDevice()
        let function = try VirtioPCI(
            device, memory: try ScratchMemory(size: 1 << 16).memory, machine: machine,
            control: control)
        let memory = Bus()
        let pci = PCIBus(memory: memory, windows: [PCIWindow(start: 0xC000_0000, size: 0x10_0000)])
        try pci.add(function, device: 0)
        memory.attach(PCIECAM(pci), start: 0xE000_0000, length: 1 << 20)
        let running = Counter(3)
        let threads = try (1...3).map { seed in
            try Thread(name: "vcpu") {
                RegisterFuzzTests.attack(
                    seed: UInt64(seed), rounds: 3000,
                    ranges: [
                        (0xC000_0000, 64), (0xC000_2000, 8), (0xC000_3000, 8), (0xC000_4000, 48),
                        (0xE000_0000, 24), (0xE000_0040, 128),
                    ],
                    read: { memory.read($0, size: $1) },
                    write: { memory.write($0, size: $1, $2) })
                running.value.subtract(1, ordering: .releasing)
                control.loop.post {}
            }
        }
        let isOver = control.loop.run(timeoutMilliseconds: 60_000) {
            running.value.load(ordering: .acquiring) == 0
        }
        try #require(isOver)
        for thread in threads { thread.join() }
        function.reset()
        #expect(device.calls.last == .reset)
    }

    private final class Counter: Sendable {
        let value: Atomic<Int>
        init(_ value: Int) { self.value = Atomic(value) }
    }

    @Test("a terminal that reads late gets every byte of a guest that waits")
    func serialOutput() throws {
        let machine = FakeMachine()
        let ioapic = IOAPIC(machine: machine)
        let serial = Serial(
            line: InterruptLine(ioapic, pin: 4), events: .init(), outputCapacity: 64)
        let count = 20_000
        let guest = try Thread(name: "vcpu") {
            for index in 0..<count {
                while serial.read(offset: 5, size: 1) & 0x20 == 0 { sched_yield() }
                _ = serial.write(offset: 0, size: 1, UInt64(index & 0xFF))
            }
        }
        var received: [UInt8] = []
        while received.count < count { received += serial.takeOutput(maximum: 17) }
        guest.join()
        #expect(received == (0..<count).map { UInt8(truncatingIfNeeded: $0) })
    }
}
