import CLinux
import Core
import Glibc
import TestSupport
import Testing
import VhostUser

@testable import NetworkBackend

/// A network device with both queues and the drivers that use them.
final class NetworkRig {
    let device: NetworkDevice
    let loop: EventLoop
    let scratch: ScratchMemory
    let features: UInt64
    let receive: DriverQueue
    let transmit: DriverQueue
    let kicks: [EventFD]
    let calls: [EventFD]
    let errors: [EventFD]
    private(set) var configChanges = 0
    private var buffers: [UInt64: [DriverBuffer]] = [:]
    private var nextToken: UInt64 = 0
    let size: UInt16

    static let mergeable: UInt64 = 1 << 15

    /// - Parameter features: besides those of VIRTIO 1.
    convenience init(
        _ text: String, features: UInt64 = NetworkRig.mergeable, size: UInt16 = 64,
        note: ControlNote? = nil
    ) throws {
        let options = try NetworkOptions(NetworkOptions.schema.parse(text))
        try self.init(features: features, size: size) { loop, onChange in
            try NetworkDevice(
                options, LinkFiles(options), on: loop, note: note, configChanged: onChange)
        }
    }

    init(
        features: UInt64 = NetworkRig.mergeable, size: UInt16 = 64,
        makeDevice: (EventLoop, @escaping () -> Void) throws -> NetworkDevice
    ) throws {
        loop = try EventLoop()
        var onChange: () -> Void = {}
        device = try makeDevice(loop) { onChange() }
        scratch = try ScratchMemory(size: 8 << 20)
        self.size = size
        self.features =
            features | VirtioFeature.version1 | VirtioFeature.indirectDescriptors
        receive = DriverQueue(scratch, size: size, features: self.features, tableSize: 128)
        transmit = DriverQueue(scratch, size: size, features: self.features, tableSize: 1100)
        kicks = try [EventFD(), EventFD()]
        calls = try [EventFD(), EventFD()]
        errors = try [EventFD(), EventFD()]
        onChange = { [unowned self] in configChanges += 1 }
        try device.setFeatures(self.features & device.features)
    }

    deinit { device.reset() }

    func start() throws {
        for index in 0..<2 { try start(index) }
    }

    func start(_ index: Int, state: QueueState? = nil) throws {
        let driver = index == 0 ? receive : transmit
        var setup = driver.setup(scratch.memory, kick: kicks[index], call: calls[index])
        setup.error = errors[index]
        if let state { setup.state = state }
        try device.startQueue(index, setup)
    }

    // MARK: Transmit

    /// Sends a frame whose header and bytes are cut into pieces.
    @discardableResult
    func send(
        _ frame: [UInt8], header: [UInt8] = [UInt8](repeating: 0, count: 12), pieces: Int = 1,
        style: DescriptorStyle = .direct
    ) throws -> UInt64 {
        let bytes = header + frame
        var readable: [DriverBuffer] = []
        let length = max((bytes.count + pieces - 1) / pieces, 1)
        var start = 0
        while start < bytes.count {
            readable.append(scratch.place(Array(bytes[start..<min(start + length, bytes.count)])))
            start += length
        }
        return submit(readable: readable, style: style)
    }

    @discardableResult
    func submit(readable: [DriverBuffer], style: DescriptorStyle = .direct) -> UInt64 {
        nextToken += 1
        let isAdded = transmit.add(
            readable: readable, writable: [], style: style, token: nextToken)
        precondition(isAdded, "the ring is full")
        if transmit.publish() { kicks[1].signal() }
        return nextToken
    }

    func awaitSent(milliseconds: UInt64 = 10_000) throws -> UsedRequest? {
        try transmit.awaitUsed(calls[1], timeoutMilliseconds: milliseconds)
    }

    // MARK: Receive

    func offer(_ sizes: [Int], style: DescriptorStyle = .direct) {
        nextToken += 1
        let memory = sizes.map { scratch.place([UInt8](repeating: 0xee, count: $0)) }
        buffers[nextToken] = memory
        precondition(
            receive.add(readable: [], writable: memory, style: style, token: nextToken),
            "the ring is full")
        if receive.publish() { kicks[0].signal() }
    }

    /// Buffers that the device has.
    var receiveCount: Int { buffers.count }

    struct Received: Equatable {
        var header: [UInt8]
        var frame: [UInt8]
        var bufferCount: Int
    }

    /// Puts the next frame together.
    func awaitFrame(milliseconds: UInt64 = 10_000) throws -> Received? {
        guard let first = try nextBuffer(milliseconds) else { return nil }
        let header = Array(first.prefix(12))
        let count = header.count == 12 ? Int(header[10]) | Int(header[11]) << 8 : 0
        var frame = Array(first.dropFirst(12))
        for _ in 1..<max(count, 1) {
            guard let more = try nextBuffer(milliseconds) else { return nil }
            frame += more
        }
        return Received(header: header, frame: frame, bufferCount: count)
    }

    private func nextBuffer(_ milliseconds: UInt64) throws -> [UInt8]? {
        guard let used = try receive.awaitUsed(calls[0], timeoutMilliseconds: milliseconds) else {
            return nil
        }
        let found = buffers.removeValue(forKey: used.token)
        let memory = try #require(found)
        return Array(memory.flatMap { scratch.bytes($0) }.prefix(Int(used.written)))
    }

    /// Whether the device's link becomes as `expected` in time.
    func isUp(expecting expected: Bool) -> Bool {
        var isUp = !expected
        _ = loop.run(timeoutMilliseconds: 5000) {
            isUp = device.readConfig(offset: 6, count: 2) == [1, 0]
            return isUp == expected
        }
        return isUp == expected
    }
}

/// Bytes that tell where they come from.
func pattern(_ count: Int, seed: Int = 1) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: ($0 &* 7) ^ ($0 >> 8) &+ seed) }
}

/// The other end of a stream.
final class StreamPeer {
    let socket: UnixSocket
    private var bytes: [UInt8] = []

    init(_ socket: UnixSocket) { self.socket = socket }

    /// Connects to a device that may not listen yet.
    convenience init(path: String) throws { self.init(try UnixSocket(connectingTo: path)) }

    /// Waits for a device to connect.
    convenience init(_ listener: UnixListener) throws {
        let deadline = Clock.monotonic() + 10_000_000_000
        var socket: UnixSocket?
        while socket == nil, Clock.monotonic() < deadline {
            socket = try listener.accept()
            if socket == nil { Clock.sleep(milliseconds: 5) }
        }
        guard let socket else { throw SystemError("accept", errno: 110) }
        self.init(socket)
    }

    static func packet(_ frame: [UInt8]) -> [UInt8] {
        let length = UInt32(frame.count)
        return [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: length >> $0) } + frame
    }

    func send(_ frame: [UInt8]) throws { try socket.send(Self.packet(frame)) }

    /// Whether the device soon has read all that was sent.
    func isRead() -> Bool {
        let deadline = Clock.monotonic() + 10_000_000_000
        var count: Int32 = 1
        while Clock.monotonic() < deadline {
            // SAFETY: the call fills the integer, which lives long enough.
            let result = unsafe withUnsafeMutablePointer(to: &count) {
                // SIOCOUTQ
                clinux_ioctl(socket.fd.rawValue, UInt(TIOCOUTQ), UInt(bitPattern: $0))
            }
            if result == 0, count == 0 { return true }
            Clock.sleep(milliseconds: 1)
        }
        return false
    }

    /// The next frame; `nil` if there is none in time, or the device has gone.
    func receive(milliseconds: Int32 = 10_000) throws -> [UInt8]? {
        while true {
            if bytes.count >= 4 {
                let length = bytes[..<4].reduce(0) { $0 << 8 | Int($1) }
                if bytes.count >= 4 + length {
                    defer { bytes.removeFirst(4 + length) }
                    return Array(bytes[4..<4 + length])
                }
            }
            guard socket.waitReadable(timeoutMilliseconds: milliseconds) else { return nil }
            guard let more = try socket.receive(upTo: 1 << 20) else { continue }
            if more.bytes.isEmpty { return nil }
            bytes += more.bytes
        }
    }
}
