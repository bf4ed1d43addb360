import Core
import Glibc
import TestSupport
import Testing

/// The kinds of ring that every behaviour is tested with.
enum RingKind: CaseIterable, CustomTestStringConvertible {
    case split, splitEventIndex, packed, packedEventIndex

    var features: UInt64 {
        switch self {
        case .split: 0
        case .splitEventIndex: VirtioFeature.eventIndex
        case .packed: VirtioFeature.packedRing
        case .packedEventIndex: VirtioFeature.packedRing | VirtioFeature.eventIndex
        }
    }

    var isPacked: Bool { features & VirtioFeature.packedRing != 0 }

    var testDescription: String { "\(self)" }

    static let plain: [RingKind] = [.split, .packed]
    static let withEventIndex: [RingKind] = [.splitEventIndex, .packedEventIndex]
}

/// A ring with both of its sides.
struct RingPair {
    let scratch: ScratchMemory
    let driver: DriverQueue
    let queue: Virtqueue

    init(
        _ kind: RingKind, size: UInt16 = 8, tableSize: Int = 8,
        scratch: ScratchMemory? = nil, state: QueueState? = nil
    ) throws {
        self.scratch = try scratch ?? ScratchMemory()
        driver = DriverQueue(
            self.scratch, size: size,
            features: kind.features | VirtioFeature.version1 | VirtioFeature.indirectDescriptors,
            tableSize: tableSize, state: state)
        queue = try Virtqueue(driver.setup(self.scratch.memory))
    }

    /// The driver adds a request and makes it visible.
    func send(
        readable: [DriverBuffer], writable: [DriverBuffer], style: DescriptorStyle = .direct,
        token: UInt64 = 0
    ) -> Bool {
        driver.add(readable: readable, writable: writable, style: style, token: token)
        return driver.publish()
    }
}

extension DescriptorChain {
    // SAFETY: the elements are only counted.
    var readableLengths: [Int] { unsafe readable.map { unsafe $0.iov_len } }
    var writableLengths: [Int] { unsafe writable.map { unsafe $0.iov_len } }
}
