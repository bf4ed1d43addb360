/// A message's contents, of one of the known shapes.
package enum Payload: Equatable, Sendable {
    case none
    case u64(UInt64)
    case vringState(VringState)
    case vringAddress(VringAddress)
    case memoryTable([MemoryRegionDescription])
    case memoryRegion(MemoryRegionDescription)
    case log(LogDescription)
    case config(ConfigAccess)
    case inflight(InflightDescription)
    case iotlb(IOTLBMessage)
    case deviceState(DeviceStateTransfer)
    case uuid([UInt8])
    case vringArea(VringArea)
    case sharedMemoryMap(SharedMemoryMap)
    /// The sizes of the device's shared memory regions, by their number.
    case sharedMemoryConfig([UInt64])
    case opaque([UInt8])

    /// The most regions in one memory table.
    package static let maximumRegions = 8  // VHOST_MEMORY_BASELINE_NREGIONS

    /// Reads the payload of `message`, all of it.
    package init(
        _ shape: PayloadShape, _ bytes: [UInt8], message: String
    ) throws(ProtocolError) {
        var reader = WireReader(message, bytes)
        var padding = 0
        switch shape {
        case .none: self = .none
        case .u64: self = .u64(try reader.u64("u64"))
        case .vringState: self = .vringState(try VringState(&reader))
        case .vringAddress: self = .vringAddress(try VringAddress(&reader))
        case .memoryTable:
            let regions = try Self.readRegions(&reader)
            // Some send the array in full.
            padding = (Self.maximumRegions - regions.count) * 32
            self = .memoryTable(regions)
        case .memoryRegion:
            _ = try reader.u64("padding")
            self = .memoryRegion(try MemoryRegionDescription(&reader))
        case .log: self = .log(try LogDescription(&reader))
        case .config: self = .config(try ConfigAccess(&reader))
        case .inflight:
            self = .inflight(try InflightDescription(&reader))
            padding = 4
        case .iotlb:
            self = .iotlb(try IOTLBMessage(&reader))
            padding = 6
        case .deviceState: self = .deviceState(try DeviceStateTransfer(&reader))
        case .uuid: self = .uuid(try reader.take("uuid", 16))
        case .vringArea: self = .vringArea(try VringArea(&reader))
        case .sharedMemoryMap: self = .sharedMemoryMap(try SharedMemoryMap(&reader))
        case .sharedMemoryConfig:
            self = .sharedMemoryConfig(try Self.readSharedMemoryConfig(&reader))
            padding = Header.maximumPayload
        case .opaque: self = .opaque(try reader.take("payload", reader.left))
        }
        try reader.finish(padding: padding)
    }

    private static func readRegions(
        _ reader: inout WireReader
    ) throws(ProtocolError) -> [MemoryRegionDescription] {
        let count = try reader.u32("num regions")
        _ = try reader.u32("padding")
        guard count <= UInt32(maximumRegions) else {
            throw ProtocolError(
                reader.message, "num regions", "\(count) is more than \(maximumRegions)")
        }
        var regions: [MemoryRegionDescription] = []
        for _ in 0..<count { regions.append(try MemoryRegionDescription(&reader)) }
        return regions
    }

    private static func readSharedMemoryConfig(
        _ reader: inout WireReader
    ) throws(ProtocolError) -> [UInt64] {
        let count = try reader.u32("num regions")
        _ = try reader.u32("padding")
        guard count <= 256 else {
            throw ProtocolError(reader.message, "num regions", "\(count) is more than 256")
        }
        var sizes: [UInt64] = []
        for _ in 0..<count { sizes.append(try reader.u64("region size")) }
        return sizes
    }

    /// The payload as it is sent.
    package var bytes: [UInt8] {
        var writer = WireWriter()
        switch self {
        case .none: break
        case .u64(let value): writer.append(value)
        case .vringState(let value): value.write(to: &writer)
        case .vringAddress(let value): value.write(to: &writer)
        case .memoryTable(let regions):
            writer.append(UInt32(truncatingIfNeeded: regions.count))
            writer.append(UInt32(0))
            for region in regions { region.write(to: &writer) }
        case .memoryRegion(let value):
            writer.append(UInt64(0))
            value.write(to: &writer)
        case .log(let value): value.write(to: &writer)
        case .config(let value): value.write(to: &writer)
        case .inflight(let value): value.write(to: &writer)
        case .iotlb(let value): value.write(to: &writer)
        case .deviceState(let value): value.write(to: &writer)
        case .uuid(let bytes), .opaque(let bytes): writer.append(bytes)
        case .vringArea(let value): value.write(to: &writer)
        case .sharedMemoryMap(let value): value.write(to: &writer)
        case .sharedMemoryConfig(let sizes):
            writer.append(UInt32(truncatingIfNeeded: sizes.count))
            writer.append(UInt32(0))
            for size in sizes { writer.append(size) }
        }
        return writer.bytes
    }
}
