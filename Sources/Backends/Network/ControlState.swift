internal import Core
internal import VhostUser

/// What a driver has asked for by its commands.
struct ControlState: Equatable {
    /// Pairs of queues that it uses, from the first.
    var activeCount: UInt16 = 1
    /// The address that it has given to the interface.
    var address: MACAddress?
    /// Which frames it wants.
    var filter: ReceiveFilter

    /// Of a driver that has not asked for anything.
    init(_ options: NetworkOptions) { filter = ReceiveFilter(own: options.mac?.number) }
}

extension ControlState {
    private static let version: UInt16 = 1
    private static let noAddress: UInt64 = 1 << 63

    ///     version u16 = 1, pairs in use u16, address u64
    ///     promiscuous u8, all groups u8, own address u64
    ///     addresses and groups, for each: u8 0 if all are wanted, else 1, count u32, u64s
    ///     networks: count u32, u64s
    var bytes: [UInt8] {
        var writer = WireWriter()
        func list(_ numbers: [UInt64]) {
            writer.append(UInt32(clamping: numbers.count))
            for number in numbers { writer.append(number) }
        }
        writer.append(Self.version)
        writer.append(activeCount)
        writer.append(address?.number ?? Self.noAddress)
        writer.append(filter.isPromiscuous ? 1 : 0 as UInt8)
        writer.append(filter.takesAllGroups ? 1 : 0 as UInt8)
        writer.append(filter.own ?? Self.noAddress)
        for numbers in [filter.addresses, filter.groups] {
            writer.append(numbers == nil ? 0 : 1 as UInt8)
            list(numbers ?? [])
        }
        list(filter.networks)
        return writer.bytes
    }

    init(_ bytes: [UInt8]) throws(ProtocolError) {
        var reader = WireReader("network state", bytes)
        let version: UInt16 = try reader.number("version")
        guard version == Self.version else {
            throw ProtocolError("network state", "version", "\(version) is not 1")
        }
        activeCount = try reader.number("pairs")
        address = MACAddress(number: try reader.number("address"))
        filter = ReceiveFilter()
        filter.isPromiscuous = try reader.number("promiscuous") as UInt8 != 0
        filter.takesAllGroups = try reader.number("all groups") as UInt8 != 0
        filter.own = MACAddress(number: try reader.number("own address"))?.number
        filter.addresses = try Self.addresses(&reader)
        filter.groups = try Self.addresses(&reader)
        filter.networks = try Self.list(&reader, limit: ReceiveFilter.networkWords)
        guard [0, ReceiveFilter.networkWords].contains(filter.networks.count) else {
            throw ProtocolError("network state", "networks", "not all are there")
        }
        try reader.finish()
    }

    private static func addresses(_ reader: inout WireReader) throws(ProtocolError) -> [UInt64]? {
        let isListed: UInt8 = try reader.number("is listed")
        let numbers = try list(&reader, limit: ReceiveFilter.addressLimit)
        return isListed == 0 ? nil : numbers
    }

    private static func list(
        _ reader: inout WireReader, limit: Int
    ) throws(ProtocolError) -> [UInt64] {
        var numbers: [UInt64] = []
        for _ in 0..<(try reader.count("count", limit: limit)) {
            numbers.append(try reader.number("number"))
        }
        return numbers
    }
}
