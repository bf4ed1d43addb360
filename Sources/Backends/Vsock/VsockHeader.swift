internal import Core

/// The head of every packet (VIRTIO 1.3, section 5.10.6), in little-endian order.
struct VsockHeader: Equatable {
    static let size = 44
    /// The type of a stream of bytes, which is the only one served.
    static let stream: UInt16 = 1

    enum Operation {
        static let request: UInt16 = 1
        static let response: UInt16 = 2
        static let reset: UInt16 = 3
        static let shutdown: UInt16 = 4
        static let data: UInt16 = 5
        static let creditUpdate: UInt16 = 6
        static let creditRequest: UInt16 = 7
    }

    var source: VsockAddress
    var destination: VsockAddress
    /// Bytes that follow.
    var length: UInt32 = 0
    var type = Self.stream
    /// One of `Operation`, or something else that a guest made up.
    var operation: UInt16
    /// Of `shutdown`: what the sender does no more.
    var flags: UInt32 = 0
    /// The room that the sender has for what it receives.
    var bufferSize: UInt32 = 0
    /// Bytes that have left that room again, counted from the connection's start.
    var forwarded: UInt32 = 0

    init(from source: VsockAddress, to destination: VsockAddress, _ operation: UInt16) {
        self.source = source
        self.destination = destination
        self.operation = operation
    }

    /// Reads a header; `nil` if the chain is too short.
    init?(_ chain: DescriptorChain) {
        guard
            let sourceID = chain.read(at: 0, as: UInt64.self),
            let destinationID = chain.read(at: 8, as: UInt64.self),
            let sourcePort = chain.read(at: 16, as: UInt32.self),
            let destinationPort = chain.read(at: 20, as: UInt32.self),
            let length = chain.read(at: 24, as: UInt32.self),
            let type = chain.read(at: 28, as: UInt16.self),
            let operation = chain.read(at: 30, as: UInt16.self),
            let flags = chain.read(at: 32, as: UInt32.self),
            let bufferSize = chain.read(at: 36, as: UInt32.self),
            let forwarded = chain.read(at: 40, as: UInt32.self)
        else { return nil }
        source = VsockAddress(cid: sourceID, port: sourcePort)
        destination = VsockAddress(cid: destinationID, port: destinationPort)
        self.length = length
        self.type = type
        self.operation = operation
        self.flags = flags
        self.bufferSize = bufferSize
        self.forwarded = forwarded
    }

    /// Writes the header to the start of a chain, which has room for it.
    func write(to chain: DescriptorChain) {
        chain.write(at: 0, source.cid)
        chain.write(at: 8, destination.cid)
        chain.write(at: 16, source.port)
        chain.write(at: 20, destination.port)
        chain.write(at: 24, length)
        chain.write(at: 28, type)
        chain.write(at: 30, operation)
        chain.write(at: 32, flags)
        chain.write(at: 36, bufferSize)
        chain.write(at: 40, forwarded)
    }
}

/// One end of a connection.
struct VsockAddress: Hashable {
    /// The host's context.
    static let hostCID: UInt64 = 2

    var cid: UInt64
    var port: UInt32
}

/// What an end of a connection does no more (VIRTIO 1.3, section 5.10.6.6.1).
struct VsockShutdown: OptionSet {
    let rawValue: UInt32

    static let receive = VsockShutdown(rawValue: 1)
    static let send = VsockShutdown(rawValue: 2)
    static let both: VsockShutdown = [.receive, .send]
}
