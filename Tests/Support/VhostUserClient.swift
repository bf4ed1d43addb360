internal import CLinux
public import Core
internal import Glibc

/// A vhost-user front end that knows just enough to use a back end's queues. It is written from the
/// specification and shares no code with the product, so that the two check each other; it also
/// talks to foreign back ends, for comparison.
public final class VhostUserClient {
    /// Requests (vhost-user specification, "Front-end message types").
    public enum Request: UInt32, CaseIterable, Sendable {
        case getFeatures = 1
        case setFeatures = 2
        case setOwner = 3
        case resetOwner = 4
        case setMemoryTable = 5
        case setLogBase = 6
        case setLogFD = 7
        case setRingSize = 8
        case setRingAddresses = 9
        case setRingBase = 10
        case getRingBase = 11
        case setKick = 12
        case setCall = 13
        case setError = 14
        case getProtocolFeatures = 15
        case setProtocolFeatures = 16
        case getQueueCount = 17
        case enableRing = 18
        case sendRARP = 19
        case setMTU = 20
        case setBackendChannel = 21
        case iotlb = 22
        case setEndianness = 23
        case getConfig = 24
        case setConfig = 25
        case createCryptoSession = 26
        case closeCryptoSession = 27
        case postcopyAdvise = 28
        case postcopyListen = 29
        case postcopyEnd = 30
        case getInflight = 31
        case setInflight = 32
        case setGPUSocket = 33
        case resetDevice = 34
        case kickRing = 35
        case getMaximumSlots = 36
        case addRegion = 37
        case removeRegion = 38
        case setStatus = 39
        case getStatus = 40
        case getSharedObject = 41
        case setDeviceState = 42
        case checkDeviceState = 43
        case getSharedMemory = 44
        case suspendRing = 45
    }

    public struct Failure: Error, CustomStringConvertible {
        public enum Kind: Sendable { case closed, silent, other }

        public let description: String
        public let kind: Kind
        public init(_ description: String, _ kind: Kind = .other) {
            self.description = description
            self.kind = kind
        }
    }

    /// A message of the back end.
    public struct Message: Sendable {
        public var request: UInt32
        public var flags: UInt32
        public var payload: [UInt8]
        public var fds: [SharedFD]
    }

    public static let protocolFeaturesBit: UInt64 = 1 << 30
    /// MQ, REPLY_ACK and CONFIG.
    public static let usualProtocolFeatures: UInt64 = 1 << 0 | 1 << 3 | 1 << 9
    public static let logProtocolFeature: UInt64 = 1 << 1
    public static let inflightProtocolFeature: UInt64 = 1 << 12

    package let socket: UnixSocket
    /// How long the back end has to answer.
    public var timeoutMilliseconds: Int32 = 10_000
    /// What our own addresses differ from the guest's by.
    public var userOffset: UInt64 = 0
    /// What both sides have agreed on.
    public private(set) var features: UInt64 = 0
    private var offered: UInt64 = 0
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
                usleep(1_000)
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
        try socket.send(Self.packet(request.rawValue, payload), fds: fds)
        return hasReply ? try reply(to: request).payload : []
    }

    /// A message as it is sent.
    /// - Parameter size: what the header says, if not the truth.
    public static func packet(
        _ request: UInt32, flags: UInt32 = 1, size: UInt32? = nil, _ payload: [UInt8]
    ) -> [UInt8] {
        littleEndian(request, flags, size ?? UInt32(payload.count)) + payload
    }

    /// The next message, which must be the reply to `request`.
    public func reply(to request: Request) throws -> Message {
        let message = try receiveMessage()
        guard message.request == request.rawValue else {
            throw Failure("the reply to \(request) is one to request \(message.request)")
        }
        return message
    }

    /// The next message.
    public func receiveMessage() throws -> Message {
        let header = try receive(12)
        let size = Self.value(header.bytes, 8, UInt32.self)
        guard size <= 1 << 16 else { throw Failure("a reply is \(size) bytes long") }
        let payload = try receive(Int(size))
        return Message(
            request: Self.value(header.bytes, 0, UInt32.self),
            flags: Self.value(header.bytes, 4, UInt32.self), payload: payload.bytes,
            fds: header.fds + payload.fds)
    }

    private func receive(_ count: Int) throws -> (bytes: [UInt8], fds: [SharedFD]) {
        var bytes: [UInt8] = []
        var fds: [SharedFD] = []
        while bytes.count < count {
            guard socket.waitReadable(timeoutMilliseconds: timeoutMilliseconds) else {
                throw Failure("the back end does not answer", .silent)
            }
            guard let piece = try receiveSome(count - bytes.count) else { continue }
            if piece.bytes.isEmpty { throw Self.closed }
            bytes += piece.bytes
            fds += piece.fds
        }
        return (bytes, fds)
    }

    private func receiveSome(_ count: Int) throws -> ReceivedBytes? {
        do {
            return try socket.receive(upTo: count)
        } catch {
            throw error.isConnectionReset ? Self.closed : Failure("\(error)")
        }
    }

    private static var closed: Failure {
        Failure("the back end has closed the connection", .closed)
    }

    /// Agrees on features: all of `wanted` and of `protocolFeatures` that the back end has.
    public func negotiate(
        _ wanted: UInt64, protocolFeatures: UInt64 = VhostUserClient.usualProtocolFeatures
    ) throws {
        try negotiateProtocol(protocolFeatures)
        try own(wanted)
    }

    /// Agrees on protocol features.
    public func negotiateProtocol(_ wanted: UInt64) throws {
        offered = Self.value(try send(.getFeatures, hasReply: true), 0, UInt64.self)
        guard offered & Self.protocolFeaturesBit != 0 else { return }
        let all = Self.value(try send(.getProtocolFeatures, hasReply: true), 0, UInt64.self)
        protocolFeatures = all & wanted
        try send(.setProtocolFeatures, littleEndian(protocolFeatures))
    }

    /// Becomes the owner and agrees on features, once protocol features are agreed on.
    public func own(_ wanted: UInt64) throws {
        features = offered & (wanted | Self.protocolFeaturesBit)
        try send(.setOwner)
        try send(.setFeatures, littleEndian(features))
    }

    /// The number of queues on offer.
    public func queueCount() throws -> UInt64 {
        Self.value(try send(.getQueueCount, hasReply: true), 0, UInt64.self)
    }

    /// Bytes of the device's configuration space.
    public func config(offset: UInt32, count: UInt32) throws -> [UInt8] {
        let payload =
            littleEndian(offset, count, 0)
            + [UInt8](repeating: 0, count: Int(count))
        return Array(try send(.getConfig, payload, hasReply: true).dropFirst(12))
    }

    /// Shows the back end all of the memory.
    public func share(_ memory: GuestMemory) throws {
        let (payload, fds) = try Self.table(memory, userOffset: userOffset)
        try send(.setMemoryTable, payload, fds: fds)
    }

    /// A memory table and the descriptors that go with it.
    public static func table(
        _ memory: GuestMemory, userOffset: UInt64
    ) throws -> (payload: [UInt8], fds: [SharedFD]) {
        var payload = littleEndian(UInt32(memory.regions.count), 0)
        var fds: [SharedFD] = []
        for region in memory.regions {
            guard let file = region.file else { throw Failure("memory without a file") }
            payload += describe(region, userOffset: userOffset)
            fds.append(file)
        }
        return (payload, fds)
    }

    /// A memory region as messages describe it.
    public static func describe(_ region: GuestRegion, userOffset: UInt64) -> [UInt8] {
        let start = region.start.rawValue
        return littleEndian(start, region.size, start &+ userOffset, region.fileOffset)
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
