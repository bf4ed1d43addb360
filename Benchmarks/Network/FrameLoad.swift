import BenchmarkSupport
import Core
import TestSupport

/// Sends equal frames as fast as they are taken, and counts those that arrive.
struct FrameLoad {
    /// Bytes of a frame, without the header of virtio.
    let size: Int

    static let headerSize = 12
    /// Larger ones consist of segments of this size.
    static let segment = 1448
    private static let linkHeader = 14
    private static let internetHeaders = 40
    private static let receiveBuffer = 4096

    private var isSegmented: Bool { size > 1514 }

    /// The header of virtio and a frame of TCP over IPv4.
    /// - Parameter sender: the last byte of the sender's address; the receiver's is one more.
    func bytes(from sender: UInt8) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: Self.headerSize)
        if isSegmented {
            let headers = Self.linkHeader + Self.internetHeaders
            header[0] = 1  // NEEDS_CSUM
            header[1] = 1  // GSO_TCPV4
            header.replaceSubrange(2..<4, with: Self.little(headers))
            header.replaceSubrange(4..<6, with: Self.little(Self.segment))
            header.replaceSubrange(6..<8, with: Self.little(headers - 20))
            header.replaceSubrange(8..<10, with: Self.little(16))
        }
        let address: [UInt8] = [2, 0, 0, 0, 0]
        var frame = address + [sender + 1] + address + [sender, 8, 0]
        let length = size - Self.linkHeader
        frame += [0x45, 0, UInt8(length >> 8), UInt8(length & 255), 0, 0, 0x40, 0, 64, 6, 0, 0]
        frame += [10, 0, 0, sender, 10, 0, 0, sender + 1]
        frame += [0, 80, 0, 80] + [UInt8](repeating: 0, count: 8) + [0x50, 0x10, 255, 255]
        frame += [UInt8](repeating: 0x5a, count: max(size - frame.count, 0))
        return header + frame
    }

    private static func little(_ value: Int) -> [UInt8] {
        [UInt8(value & 255), UInt8(value >> 8 & 255)]
    }

    /// Runs until the time is over, which begins once frames arrive: a device takes its time to
    /// start.
    /// - Parameters:
    ///   - receiver: where frames arrive; `nil`: those that the device has taken count.
    ///   - measured: called when the time begins.
    func run(
        from sender: any NetworkPort, to receiver: (any NetworkPort)?, nanoseconds: UInt64,
        measured: () -> Void
    ) throws -> LoadResult {
        var transmitter = Transmitter(sender, bytes(from: 1))
        var arrival = receiver.map { Receiver($0, bufferSize: Self.receiveBuffer) }
        func turn() throws -> Int {
            let sent = try transmitter.turn()
            return try arrival?.turn() ?? sent
        }
        if let receiver { try introduce(receiver) }
        let deadline = Clock.monotonic() + Self.patience
        while try turn() == 0 {
            guard Clock.monotonic() < deadline else {
                throw VhostUserClient.Failure("no frame arrives")
            }
        }
        measured()
        let start = Clock.monotonic()
        var result = LoadResult()
        while result.elapsed < nanoseconds {
            for _ in 0..<16 { result.operations += try turn() }
            result.elapsed = Clock.monotonic() - start
        }
        return result
    }

    private static let patience: UInt64 = 15_000_000_000

    /// Lets the device know who is at the other end.
    private func introduce(_ receiver: any NetworkPort) throws {
        var transmitter = Transmitter(receiver, FrameLoad(size: 64).bytes(from: 2), limit: 1)
        let end = Clock.monotonic() + 2_000_000
        while Clock.monotonic() < end, try transmitter.turn() == 0 {}
    }
}

/// Keeps a queue full of frames.
private struct Transmitter {
    private let port: any NetworkPort
    private let queue: DriverQueue
    private let buffers: [DriverBuffer]
    private var free: [Int]

    init(_ port: any NetworkPort, _ frame: [UInt8], limit: Int = Int(NetworkSetting.ringSize)) {
        self.port = port
        queue = port.transmitting
        buffers = (0..<limit).map { _ in port.scratch.place(frame) }
        free = Array(buffers.indices)
    }

    /// - Returns: how many frames the device has taken since the last turn.
    mutating func turn() throws -> Int {
        while let index = free.popLast() {
            queue.add(
                buffers.span.extracting(index..<index + 1), readableCount: 1, token: UInt64(index))
        }
        if queue.publish() { port.kick(.transmit) }
        while let used = try queue.popUsed() { free.append(Int(used.token)) }
        return free.count
    }
}

/// Keeps a queue full of empty buffers.
private struct Receiver {
    private let port: any NetworkPort
    private let queue: DriverQueue
    private let buffers: [DriverBuffer]
    private var free: [Int]
    /// Further buffers of the frame that is coming.
    private var rest = 0

    init(_ port: any NetworkPort, bufferSize: Int) {
        self.port = port
        queue = port.receiving
        buffers = (0..<Int(NetworkSetting.ringSize)).map { _ in
            DriverBuffer(
                port.scratch.allocate(bufferSize, alignment: UInt64(bufferSize)),
                UInt32(bufferSize))
        }
        free = Array(buffers.indices)
    }

    /// - Returns: how many frames have come since the last turn.
    mutating func turn() throws -> Int {
        while let index = free.popLast() {
            queue.add(
                buffers.span.extracting(index..<index + 1), readableCount: 0, token: UInt64(index))
        }
        if queue.publish() { port.kick(.receive) }
        var count = 0
        while let used = try queue.popUsed() {
            let index = Int(used.token)
            free.append(index)
            if rest > 0 {
                rest -= 1
                continue
            }
            count += 1
            let place = buffers[index].address.rawValue + 10
            let needed = try port.scratch.memory.read(GuestAddress(place), as: UInt16.self)
            rest = max(Int(needed), 1) - 1
        }
        return count
    }
}
