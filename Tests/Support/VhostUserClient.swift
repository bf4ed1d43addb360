internal import CLinux
public import Core
internal import Glibc

/// A vhost-user front end that knows just enough to use a back end's queues. It is written from the
/// specification and shares no code with the product, so that the two check each other; it also
/// talks to foreign back ends, for comparison.
public final class VhostUserClient {
    /// Requests (vhost-user specification, "Front-end message types").
    public enum Request: UInt32 {
        case getFeatures = 1
        case setFeatures = 2
        case setOwner = 3
        case setMemoryTable = 5
        case setLogBase = 6
        case setRingSize = 8
        case setRingAddresses = 9
        case setRingBase = 10
        case getRingBase = 11
        case setKick = 12
        case setCall = 13
        case getProtocolFeatures = 15
        case setProtocolFeatures = 16
        case getQueueCount = 17
        case enableRing = 18
        case getConfig = 24
        case getInflight = 31
        case setInflight = 32
    }

    public struct Failure: Error, CustomStringConvertible {
        public let description: String
        public init(_ description: String) { self.description = description }
    }

    static let protocolFeaturesBit: UInt64 = 1 << 30
    /// MQ, REPLY_ACK and CONFIG.
    public static let usualProtocolFeatures: UInt64 = 1 << 0 | 1 << 3 | 1 << 9
    public static let logProtocolFeature: UInt64 = 1 << 1
    public static let inflightProtocolFeature: UInt64 = 1 << 12

    private let socket: UnixSocket
    /// What both sides have agreed on.
    public private(set) var features: UInt64 = 0
    public private(set) var protocolFeatures: UInt64 = 0

    /// Connects to a back end that listens at `path`, which may still be starting.
    public convenience init(path: String, timeoutMilliseconds: UInt64 = 5000) throws {
        let deadline = Clock.monotonic() + timeoutMilliseconds * 1_000_000
        while true {
            do {
                try self.init(UnixSocket(connectingTo: path))
                return
            } catch {
                guard Clock.monotonic() < deadline else { throw error }
                usleep(10_000)
            }
        }
    }

    init(_ socket: UnixSocket) { self.socket = socket }

    /// Takes a connected socket.
    public convenience init(adopting fd: SharedFD) throws {
        self.init(try UnixSocket(adopting: fd))
    }

    /// Sends a request and, if it has a reply, returns that.
    @discardableResult
    public func send(
        _ request: Request, _ payload: [UInt8] = [], fds: [SharedFD] = [], hasReply: Bool = false
    ) throws -> [UInt8] {
        let header =
            Self.bytes(request.rawValue) + Self.bytes(1 as UInt32)
            + Self.bytes(UInt32(payload.count))
        try socket.send(header + payload, fds: fds)
        guard hasReply else { return [] }
        let answer = try receive(12)
        guard answer.prefix(4) == Self.bytes(request.rawValue)[...] else {
            throw Failure("the reply to \(request) is one to request \(answer[0])")
        }
        return try receive(Int(Self.value(answer, 8, UInt32.self)))
    }

    private func receive(_ count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            guard socket.waitReadable(timeoutMilliseconds: 10_000) else {
                throw Failure("the back end does not answer")
            }
            guard let piece = try socket.receive(upTo: count - bytes.count) else { continue }
            if piece.bytes.isEmpty { throw Failure("the back end has closed the connection") }
            bytes += piece.bytes
        }
        return bytes
    }

    /// Agrees on features: all of `wanted` and of `protocolFeatures` that the back end has.
    public func negotiate(
        _ wanted: UInt64, protocolFeatures: UInt64 = VhostUserClient.usualProtocolFeatures
    ) throws {
        let offered = Self.value(try send(.getFeatures, hasReply: true), 0, UInt64.self)
        features = offered & (wanted | Self.protocolFeaturesBit)
        if offered & Self.protocolFeaturesBit != 0 {
            let all = Self.value(try send(.getProtocolFeatures, hasReply: true), 0, UInt64.self)
            self.protocolFeatures = all & protocolFeatures
            try send(.setProtocolFeatures, Self.bytes(self.protocolFeatures))
        }
        try send(.setOwner)
        try send(.setFeatures, Self.bytes(features))
    }

    /// The number of queues on offer.
    public func queueCount() throws -> UInt64 {
        Self.value(try send(.getQueueCount, hasReply: true), 0, UInt64.self)
    }

    /// Bytes of the device's configuration space.
    public func config(offset: UInt32, count: UInt32) throws -> [UInt8] {
        let payload =
            Self.bytes(offset) + Self.bytes(count) + Self.bytes(0 as UInt32)
            + [UInt8](repeating: 0, count: Int(count))
        return Array(try send(.getConfig, payload, hasReply: true).dropFirst(12))
    }

    /// Shows the back end all of the memory. Our own addresses are the guest's.
    public func share(_ memory: GuestMemory) throws {
        var payload = Self.bytes(UInt32(memory.regions.count)) + Self.bytes(0 as UInt32)
        var fds: [SharedFD] = []
        for region in memory.regions {
            guard let file = region.file else { throw Failure("memory without a file") }
            for word in [
                region.start.rawValue, region.size, region.start.rawValue, region.fileOffset,
            ] { payload += Self.bytes(word) }
            fds.append(file)
        }
        try send(.setMemoryTable, payload, fds: fds)
    }

    /// Starts a queue.
    public func start(_ index: UInt32, _ driver: DriverQueue, kick: EventFD, call: EventFD) throws {
        let layout = driver.layout
        let isPacked = features & VirtioFeature.packedRing != 0
        let state = driver.state
        let base =
            isPacked
            ? UInt32(state.nextAvailable) | UInt32(state.nextUsed) << 16
            : UInt32(state.nextAvailable)
        try send(.setRingSize, Self.bytes(index) + Self.bytes(UInt32(layout.size)))
        try send(.setRingBase, Self.bytes(index) + Self.bytes(base))
        try send(
            .setRingAddresses,
            Self.bytes(index) + Self.bytes(0 as UInt32)
                + Self.bytes(layout.descriptors.rawValue) + Self.bytes(layout.device.rawValue)
                + Self.bytes(layout.driver.rawValue) + Self.bytes(0 as UInt64))
        try send(.setCall, Self.bytes(UInt64(index)), fds: [call.fd])
        try send(.setKick, Self.bytes(UInt64(index)), fds: [kick.fd])
        if features & Self.protocolFeaturesBit != 0 {
            try send(.enableRing, Self.bytes(index) + Self.bytes(1 as UInt32))
        }
        kick.signal()
    }

    /// Stops a queue.
    /// - Returns: where it stands, as the back end says.
    @discardableResult
    public func stop(_ index: UInt32) throws -> UInt32 {
        let payload = Self.bytes(index) + Self.bytes(0 as UInt32)
        return Self.value(try send(.getRingBase, payload, hasReply: true), 4, UInt32.self)
    }

    /// A number's bytes in the machine's order, which is little-endian here.
    public static func bytes<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
        (0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> T($0 * 8)) }
    }

    /// The number at `offset`; 0 where bytes are missing.
    public static func value<T: FixedWidthInteger>(
        _ bytes: [UInt8], _ offset: Int, _: T.Type
    ) -> T {
        let size = T.bitWidth / 8
        guard bytes.count >= offset + size else { return 0 }
        return bytes[offset..<offset + size].reversed().reduce(0) {
            $0 << 8 | T(truncatingIfNeeded: $1)
        }
    }
}
