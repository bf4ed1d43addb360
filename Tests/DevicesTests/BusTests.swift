import Accelerator
import Core
import Devices
import Synchronization
import Testing

/// Answers reads with a number of its own and the offset.
private final class Probe: BusDevice {
    let number: UInt64
    let written = Mutex<[UInt64]>([])

    init(_ number: UInt64) { self.number = number }

    func read(offset: UInt64, size: Int) -> UInt64 { number << 8 | offset }

    func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
        written.withLock { $0.append(value) }
        return .reset
    }
}

@Suite("Bus")
struct BusTests {
    @Test("an access reaches the device that claims it, with the offset")
    func dispatch() {
        let bus = Bus()
        bus.attach(Probe(2), start: 0x200, length: 0x10)
        bus.attach(Probe(1), start: 0x100, length: 0x10)
        #expect(bus.read(0x100, size: 4) == 0x100)
        #expect(bus.read(0x20C, size: 4) == 0x20C)
        #expect(bus.write(0x10F, size: 1, 0x1FF) == .reset)
    }

    @Test(
        "what nobody claims reads all ones",
        arguments: [
            (0xFF, 1, 0xFF), (0x110, 2, 0xFFFF), (0x10E, 4, 0xFFFF_FFFF), (0xFC, 8, UInt64.max),
            (UInt64.max, 4, 0xFFFF_FFFF),
        ] as [(UInt64, Int, UInt64)])
    func unclaimed(address: UInt64, size: Int, expected: UInt64) {
        let bus = Bus()
        bus.attach(Probe(1), start: 0x100, length: 0x10)
        #expect(bus.read(address, size: size) == expected)
        #expect(bus.write(address, size: size, 0) == .none)
    }

    @Test("a value is cut to the access's size")
    func truncation() {
        let bus = Bus()
        let probe = Probe(0xAB)
        bus.attach(probe, start: 0, length: 8)
        #expect(bus.read(1, size: 1) == 1)
        _ = bus.write(0, size: 2, 0x12345)
        #expect(probe.written.withLock { $0 } == [0x2345])
    }

    @Test("ranges that overlap, wrap or are empty are refused")
    func refusal() {
        let bus = Bus()
        #expect(bus.attach(Probe(1), start: 0x100, length: 0x10) != nil)
        #expect(bus.attach(Probe(2), start: 0x10F, length: 1) == nil)
        #expect(bus.attach(Probe(2), start: 0xF0, length: 0x11) == nil)
        #expect(bus.attach(Probe(2), start: 0, length: 0) == nil)
        #expect(bus.attach(Probe(2), start: .max, length: 2) == nil)
        #expect(bus.attach(Probe(2), start: .max, length: 1) != nil)
    }

    @Test("a range moves, disappears and comes back")
    func moving() throws {
        let bus = Bus()
        let handle = try #require(bus.attach(Probe(1), start: nil, length: 0x10))
        bus.attach(Probe(2), start: 0x200, length: 0x10)
        #expect(bus.move(handle, to: 0x300))
        #expect(bus.read(0x301, size: 2) == 0x101)
        #expect(!bus.move(handle, to: 0x208))
        #expect(bus.read(0x301, size: 1) == 0xFF)
        #expect(bus.move(handle, to: 0x1F0))
        #expect(bus.read(0x1FF, size: 2) == 0xFFFF)
        #expect(bus.read(0x1FE, size: 2) == 0x10E)
        bus.detach(handle)
        bus.reclaim()
        #expect(bus.read(0x1FE, size: 2) == 0xFFFF)
        #expect(bus.read(0x200, size: 2) == 0x200)
    }

    @Test("a reader never sees a range halfway through a move")
    func concurrentMoves() throws {
        let bus = Bus()
        let handle = try #require(bus.attach(Probe(1), start: 0x1000, length: 0x100))
        bus.attach(Probe(2), start: 0x8000, length: 0x100)
        let isDone = Atomic<Bool>(false)
        // Wherever the range is, an offset past its end would show as 0x1xx with another xx.
        let failures = Atomic<Int>(0)
        let reader = try Thread(name: "reader") {
            while !isDone.load(ordering: .relaxed) {
                for address in [0x1010, 0x2010, 0x8010] as [UInt64] {
                    let value = bus.read(address, size: 2)
                    let isGood = value == 0xFFFF || value == 0x110 || value == 0x210
                    if !isGood { failures.add(1, ordering: .relaxed) }
                }
            }
        }
        for round in 0..<20000 { bus.move(handle, to: round % 2 == 0 ? 0x2000 : 0x1000) }
        isDone.store(true, ordering: .relaxed)
        reader.join()
        #expect(failures.load(ordering: .relaxed) == 0)
    }
}
