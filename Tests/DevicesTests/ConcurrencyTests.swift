import Accelerator
import Core
import DeviceFakes
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
                Self.attack(memory, seed: UInt64(seed))
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

    /// Accesses of all sizes to the registers of everything.
    private static func attack(_ memory: Bus, seed: UInt64) {
        let ranges: [Range<UInt64>] = [
            0xC000_0000..<0xC000_0040, 0xC000_2000..<0xC000_2008, 0xC000_3000..<0xC000_3008,
            0xC000_4000..<0xC000_4030, 0xE000_0000..<0xE000_0018, 0xE000_0040..<0xE000_00C0,
        ]
        let values: [UInt64] = [0, 1, 2, 3, 8, 11, 15, 0x80, 0xFFFF, .max]
        var random = SeededGenerator(seed)
        for round in 0..<3000 {
            let range = ranges[round % ranges.count]
            let size = 1 << Int.random(in: 0..<4, using: &random)
            let address = UInt64.random(in: range, using: &random) & ~UInt64(size - 1)
            if round % 3 == 0 {
                _ = memory.read(address, size: size)
            } else {
                _ = memory.write(
                    address, size: size, values.randomElement(using: &random) ?? random.next())
            }
        }
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
