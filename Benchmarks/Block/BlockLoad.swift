import BenchmarkSupport
import Core
import TestSupport

/// Random transfers of one size.
struct BlockLoad: QueueLoad {
    /// Header, data and status of each transfer, one after the other.
    private let buffers: [DriverBuffer]
    private let memory: GuestMemory
    private let shape: Shape
    /// Where on the disk a transfer may begin, in units of its size.
    private let places: UInt64
    private var random: UInt64

    /// What is transferred.
    struct Shape {
        var depth = 1
        var size = 4096
        var isWrite = false
    }

    var depth: Int { shape.depth }

    /// - Parameter seed: different for each load.
    init(_ shape: Shape, _ scratch: ScratchMemory, diskSize: UInt64, seed: Int) {
        self.shape = shape
        memory = scratch.memory
        places = max(diskSize / UInt64(shape.size), 1)
        random = UInt64(seed + 1) &* 0x9e37_79b9_7f4a_7c15
        buffers = (0..<shape.depth).flatMap { _ in
            [
                scratch.buffer(16),
                DriverBuffer(scratch.allocate(shape.size, alignment: 4096), UInt32(shape.size)),
                scratch.buffer(1),
            ]
        }
    }

    /// Memory that a load needs.
    static func memorySize(_ shape: Shape) -> Int { shape.depth * (shape.size + 8192) }

    @inline(__always)
    mutating func send(_ place: Int, to queue: DriverQueue) throws -> Bool {
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        let sector = random % places * UInt64(shape.size / 512)
        let header = buffers[3 * place].address
        try memory.write(header, UInt64(shape.isWrite ? 1 : 0))
        try memory.write(GuestAddress(header.rawValue + 8), sector)
        let request = buffers.span.extracting(3 * place..<3 * place + 3)
        return queue.add(request, readableCount: shape.isWrite ? 2 : 1, token: UInt64(place))
    }

    @inline(__always)
    mutating func receive(_ place: Int, written: UInt32) throws -> Bool {
        guard try memory.read(buffers[3 * place + 2].address, as: UInt8.self) == 0 else {
            throw VhostUserClient.Failure("a request failed")
        }
        return true
    }
}
