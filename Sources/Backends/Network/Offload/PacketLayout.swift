/// Where things are in a frame of IPv4 or IPv6 with TCP or UDP, as its first bytes say. What is not
/// plain (fragments, routing headers, unknown extensions) has none.
struct PacketLayout: Equatable {
    enum Transport: UInt8 {
        case tcp = 6
        case udp = 17
    }

    /// Where the header of IP begins, and that of TCP or UDP.
    let network: Int
    let transport: Int
    let isIPv6: Bool
    let kind: Transport
    /// Where the packet ends, by its own account; what follows in the frame is padding.
    let end: Int
    /// Where the data begins.
    let payload: Int

    private static let tagLimit = 2
    private static let extensionLimit = 4

    /// - Parameters:
    ///   - bytes: the frame's first ones.
    ///   - frameLength: of all of it.
    ///   - trustsLength: the header of IP says how long the packet is.
    init?(_ bytes: UnsafeRawBufferPointer, frameLength: Int, trustsLength: Bool) {
        let reader = unsafe Reader(bytes)
        guard let network = Self.network(reader), let version = reader.byte(network) else {
            return nil
        }
        self.network = network
        let next: (kind: UInt8, offset: Int)?
        let length: Int?
        switch version >> 4 {
        case 4:
            isIPv6 = false
            next = Self.version4(reader, network)
            length = reader.word(network + 2).map { network + Int($0) }
        case 6:
            isIPv6 = true
            next = Self.version6(reader, network)
            length = reader.word(network + 4).map { network + 40 + Int($0) }
        default: return nil
        }
        guard let next, let kind = Transport(rawValue: next.kind), let length else { return nil }
        self.kind = kind
        transport = next.offset
        end = trustsLength ? length : frameLength
        switch kind {
        case .udp: payload = transport + 8
        case .tcp:
            guard let size = reader.byte(transport + 12), size >> 4 >= 5 else { return nil }
            payload = transport + Int(size >> 4) * 4
        }
        guard payload <= end, end <= frameLength, payload <= bytes.count else { return nil }
    }

    private static func network(_ reader: Reader) -> Int? {
        var offset = 12
        for _ in 0...tagLimit {
            switch reader.word(offset) {
            case 0x0800, 0x86dd: return offset + 2
            // A tag of a VLAN.
            case 0x8100, 0x88a8: offset += 4
            default: return nil
            }
        }
        return nil
    }

    private static func version4(_ reader: Reader, _ start: Int) -> (UInt8, Int)? {
        guard let first = reader.byte(start), first & 15 >= 5,
            // More fragments, or a later one.
            let fragment = reader.word(start + 6), fragment & 0x3fff == 0,
            let kind = reader.byte(start + 9)
        else { return nil }
        return (kind, start + Int(first & 15) * 4)
    }

    private static func version6(_ reader: Reader, _ start: Int) -> (UInt8, Int)? {
        guard var kind = reader.byte(start + 6) else { return nil }
        var offset = start + 40
        for _ in 0...extensionLimit {
            // Options for hops and for the destination.
            guard kind == 0 || kind == 60 else { return (kind, offset) }
            guard let next = reader.byte(offset), let size = reader.byte(offset + 1) else {
                return nil
            }
            kind = next
            offset += (Int(size) + 1) * 8
        }
        return nil
    }

    /// Numbers of a frame, if they are among its first bytes.
    // SAFETY: it is used while the bytes are there, and reads below their count only.
    @safe private struct Reader {
        let bytes: UnsafeRawBufferPointer

        init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }

        func byte(_ offset: Int) -> UInt8? {
            guard offset >= 0, offset < (unsafe bytes.count) else { return nil }
            return unsafe bytes[offset]
        }

        func word(_ offset: Int) -> UInt16? {
            guard let high = byte(offset), let low = byte(offset + 1) else { return nil }
            return UInt16(high) << 8 | UInt16(low)
        }
    }
}
