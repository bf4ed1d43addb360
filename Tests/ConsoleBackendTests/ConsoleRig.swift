import Core
import Glibc
import TestSupport
import Testing
import VhostUser

@testable import ConsoleBackend

/// A console device and the guest's side of its queues, all on one loop.
final class ConsoleRig {
    static let multiport: UInt64 = 1 << 1

    let loop: EventLoop
    let device: ConsoleDevice
    let scratch: ScratchMemory
    private(set) var configChanges = 0
    private var drivers: [Int: (queue: DriverQueue, kick: EventFD)] = [:]
    /// Buffers that wait for input, by queue, oldest first.
    private var waiting: [Int: [DriverBuffer]] = [:]

    /// - Parameter text: the console in the form of `--console`.
    init(_ text: String) throws {
        let options = try ConsoleOptions(ConsoleOptions.schema.parse(text))
        loop = try EventLoop()
        scratch = try ScratchMemory(size: 16 << 20)
        let ends = try ConsoleFiles.ends(options, try ConsoleFiles.open(options), on: loop)
        var changed: () -> Void = {}
        device = ConsoleDevice(
            zip(options.ports, ends).map { ConsolePort($0, $1) }, on: loop,
            configChanged: { changed() })
        changed = { [unowned self] in configChanges += 1 }
        let features = VirtioFeature.version1 | Self.multiport
        try device.setFeatures(features)
        for index in 0..<device.queueCount {
            let kick = try EventFD()
            let driver = DriverQueue(scratch, size: 16, features: features, tableSize: 16)
            drivers[index] = (driver, kick)
            try device.startQueue(index, driver.setup(scratch.memory, kick: kick))
        }
        for index in stride(from: 0, to: device.queueCount, by: 2) {
            for _ in 0..<8 { offer(index, scratch.buffer(256)) }
        }
    }

    deinit { device.reset() }

    private func offer(_ index: Int, _ buffer: DriverBuffer) {
        guard let (queue, kick) = drivers[index] else { return }
        waiting[index, default: []].append(buffer)
        precondition(queue.add(readable: [], writable: [buffer]))
        if queue.publish() { kick.signal() }
    }

    /// What came on an input queue; waits for at least one buffer.
    func receive(_ index: Int, milliseconds: UInt32 = 3000) throws -> [UInt8]? {
        guard let (queue, _) = drivers[index] else { return nil }
        var used: UsedRequest?
        _ = loop.run(timeoutMilliseconds: milliseconds) {
            used = (try? queue.popUsed()) ?? nil
            return used != nil
        }
        guard let used, let buffer = waiting[index]?.removeFirst() else { return nil }
        let bytes = Array(scratch.bytes(buffer).prefix(Int(used.written)))
        offer(index, buffer)
        return bytes
    }

    /// Input until `count` bytes are there.
    func input(_ index: Int, count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count, let more = try receive(index) { bytes += more }
        return bytes
    }

    /// Gives output to the device.
    /// - Returns: whether it was taken in time.
    func send(_ index: Int, _ bytes: [UInt8], milliseconds: UInt32 = 3000) throws -> Bool {
        guard let (queue, kick) = drivers[index] else { return false }
        precondition(queue.add(readable: [scratch.place(bytes)], writable: []))
        if queue.publish() { kick.signal() }
        return try awaitSent(index, milliseconds: milliseconds)
    }

    func awaitSent(_ index: Int, milliseconds: UInt32 = 3000) throws -> Bool {
        guard let (queue, _) = drivers[index] else { return false }
        return loop.run(timeoutMilliseconds: milliseconds) {
            ((try? queue.popUsed()) ?? nil) != nil
        }
    }

    /// A message on the control queue.
    func control(_ port: UInt32, _ event: UInt16, _ value: UInt16) throws {
        let bytes = ConsoleMessage(port: port, event: event, value: value).bytes
        let isSent = try send(3, bytes, milliseconds: 20_000)
        try #require(isSent)
    }

    /// The next message to the guest.
    func message() throws -> ConsoleMessage? {
        guard let bytes = try receive(2), bytes.count >= 8 else { return nil }
        let words = bytes.map(UInt32.init)
        return ConsoleMessage(
            port: words[0] | words[1] << 8, event: UInt16(words[4] | words[5] << 8),
            value: UInt16(words[6] | words[7] << 8), rest: Array(bytes[8...]))
    }

    /// Reads from a descriptor while the device works.
    func read(_ socket: UnixSocket, count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        _ = loop.run(timeoutMilliseconds: 5000) {
            if let got = (try? socket.receive(upTo: max(count - bytes.count, 1))) ?? nil {
                bytes += got.bytes
            }
            return bytes.count >= count
        }
        return bytes
    }
}
