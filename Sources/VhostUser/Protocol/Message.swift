package import Core

/// What every message begins with (vhost-user specification, "Header").
package struct Header: Equatable, Sendable {
    package static let byteCount = 12
    /// More than any defined message needs: 256 shared memory regions.
    package static let maximumPayload = 4096

    package static let versionMask: UInt32 = 0x3
    package static let version: UInt32 = 1
    package static let replyFlag: UInt32 = 1 << 2
    package static let needReplyFlag: UInt32 = 1 << 3

    package var request: UInt32
    package var flags: UInt32
    package var size: UInt32

    package init(request: UInt32, flags: UInt32, size: UInt32) {
        self.request = request
        self.flags = flags
        self.size = size
    }

    /// - Parameter name: what to call the message in errors.
    package init(_ bytes: [UInt8], name: (UInt32) -> String) throws(ProtocolError) {
        var reader = WireReader("header", bytes)
        request = try reader.u32("request")
        flags = try reader.u32("flags")
        size = try reader.u32("size")
        guard flags & Self.versionMask == Self.version else {
            throw ProtocolError(
                name(request), "flags", "the version is \(flags & Self.versionMask), not 1")
        }
        guard size <= UInt32(Self.maximumPayload) else {
            throw ProtocolError(
                name(request), "size", "\(size) is more than \(Self.maximumPayload)")
        }
    }

    package var isReply: Bool { flags & Self.replyFlag != 0 }
    package var needsReply: Bool { flags & Self.needReplyFlag != 0 }

    package var bytes: [UInt8] {
        var writer = WireWriter()
        writer.append(request)
        writer.append(flags)
        writer.append(size)
        return writer.bytes
    }
}

/// A whole message as it came, with its descriptors. Dropping it closes them.
package struct Message: Sendable {
    package var header: Header
    package var payload: [UInt8]
    package var fds: [SharedFD]

    package init(
        request: UInt32, flags: UInt32 = Header.version, payload: [UInt8] = [],
        fds: [SharedFD] = []
    ) {
        header = Header(
            request: request, flags: flags, size: UInt32(truncatingIfNeeded: payload.count))
        self.payload = payload
        self.fds = fds
    }

    package var bytes: [UInt8] { header.bytes + payload }

    /// The contents, checked against the table. The reply flag must not be set.
    package func payload(of rule: MessageRule) throws(ProtocolError) -> Payload {
        guard !header.isReply else {
            throw ProtocolError(rule.name, "flags", "a request has the reply flag")
        }
        try Self.check(fds.count, rule.descriptors, rule.name)
        return try Payload(rule.payload, payload, message: rule.name)
    }

    /// The contents of the reply to a request of `rule`; `shape` instead of its own for a plain
    /// acknowledgement.
    package func replyPayload(
        of rule: MessageRule, request: UInt32, shape: PayloadShape
    ) throws(ProtocolError) -> Payload {
        let name = "reply to \(rule.name)"
        guard header.isReply else {
            throw ProtocolError(name, "flags", "the reply flag is missing")
        }
        guard header.request == request else {
            throw ProtocolError(name, "request", "it is \(header.request), not \(request)")
        }
        try Self.check(fds.count, rule.replyDescriptors, name)
        return try Payload(shape, payload, message: name)
    }

    private static func check(
        _ count: Int, _ allowed: ClosedRange<Int>, _ name: String
    ) throws(ProtocolError) {
        guard allowed.contains(count) else {
            let wanted =
                allowed.count == 1
                ? "\(allowed.lowerBound)" : "\(allowed.lowerBound) to \(allowed.upperBound)"
            throw ProtocolError(name, "descriptors", "there are \(count), not \(wanted)")
        }
    }
}
