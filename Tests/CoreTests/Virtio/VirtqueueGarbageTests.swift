import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@Suite("A virtqueue with a hostile driver")
struct VirtqueueGarbageTests {
    private final class Stop: Sendable {
        let flag = Atomic(false)
    }

    @Test("survives descriptors that change while they are read", arguments: RingKind.plain)
    func concurrentChange(kind: RingKind) throws {
        let ring = try RawRing(kind, size: 4)
        let memory = ring.scratch.memory
        let layout = ring.layout
        let stop = Stop()
        let isPacked = ring.isPacked
        let thread = try Thread(name: "hostile") {
            var random = SeededGenerator(7)
            let flags: [UInt64] = [0, 1, 2, 3, 4, 1 << 15]
            while !stop.flag.load(ordering: .relaxed) {
                let place = layout.descriptors.rawValue + 16 * (random.next() % 4)
                // Addresses and lengths that are right or just wrong, in any combination.
                let address: UInt64 = 0x1f_fff0 + random.next() % 2 * 16
                let flag = flags.randomElement(using: &random) ?? 0
                let word =
                    isPacked
                    ? UInt64(16 + random.next() % 2) | (flag | 0x80) << 48
                    : UInt64(16 + random.next() % 2) | flag << 32 | (random.next() % 5) << 48
                try? memory.write(GuestAddress(place), address)
                try? memory.write(GuestAddress(place + 8), word)
                try? memory.write(
                    GuestAddress(layout.driver.rawValue + 2), UInt16(random.next() % 5))
            }
        }
        defer {
            stop.flag.store(true, ordering: .relaxed)
            thread.join()
        }
        var setup = ring.queue.setup
        let chain = DescriptorChain(capacity: 1)
        var popped = 0
        var broken = 0
        // The other thread may not get a processor for a while.
        let deadline = Clock.monotonic() + 10_000_000_000
        while popped < 200 || broken < 200, Clock.monotonic() < deadline {
            setup.state = isPacked ? .freshPacked : .freshSplit
            let queue = try Virtqueue(setup)
            do {
                while try queue.pop(into: chain) {
                    popped += 1
                    chain.write(at: 0, [UInt8](repeating: 1, count: Int(chain.writableLength)))
                    _ = chain.readBytes(at: 0, count: Int(chain.readableLength))
                    // Nothing but the one good range can have been let through.
                    #expect(chain.readableLengths.allSatisfy { $0 == 16 })
                    #expect(chain.writableLengths.allSatisfy { $0 == 16 })
                }
            } catch { broken += 1 }
        }
        #expect(popped >= 200)
        #expect(broken >= 200)
    }
}
