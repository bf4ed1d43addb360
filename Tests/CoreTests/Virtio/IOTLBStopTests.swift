import Core
import Synchronization
import TestSupport
import Testing

@Suite("A stop while a queue waits for a translation")
struct IOTLBStopTests {
    /// How often it was asked, and whose wait ends then.
    private final class Asked: Sendable {
        let count = Atomic<Int>(0)
        let client = Mutex<IOTLBClient?>(nil)
    }

    @Test("is no error, and nobody is asked again", arguments: RingKind.plain, [1, 4])
    func stop(kind: RingKind, limit: Int) throws {
        let asked = Asked()
        let iotlb = IOTLB { _, _ in
            asked.count.add(1, ordering: .relaxed)
            asked.client.withLock { $0 }?.cut()
        }
        let start: UInt64 = 0x10_0000
        iotlb.add(.init(start: start, size: start, guest: start, access: [.read, .write]))
        let client = IOTLBClient(iotlb)
        asked.client.withLock { $0 = client }
        defer { asked.client.withLock { $0 = nil } }
        let event = try EventFD()
        let ring = try RawRing(kind, iotlb: client, error: event)
        try ring.put(0, 0x30_0000, 16, 0)
        try ring.offer([0])
        let chains = (0..<limit).map { _ in DescriptorChain() }
        let borrowed = unsafe chains.map { unsafe Unmanaged.passUnretained($0) }
        for _ in 0..<3 {
            // SAFETY: the chains live as long as the array above.
            let count = try unsafe borrowed.withUnsafeBufferPointer { chains in
                guard let first = chains.baseAddress else { return -1 }
                return try unsafe ring.queue.pop(into: first, limit: limit)
            }
            #expect(count == 0)
            #expect(try !ring.queue.pop(into: chains[0]))
            #expect(!ring.queue.enableNotifications())
        }
        let count = asked.count.load(ordering: .relaxed)
        #expect(count == 1)
        #expect(!event.drain())
        // It is there for whoever goes on.
        let fresh: QueueState = kind.isPacked ? .freshPacked : .freshSplit
        #expect(ring.queue.state.nextAvailable == fresh.nextAvailable)
    }
}
