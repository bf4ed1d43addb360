import TestSupport
import VhostUser

/// Payloads of all shapes, and headers.
struct CodecTarget: FuzzTarget {
    static let name = "vhost-codec"
    static let about = "vhost-user messages: bytes to payloads and back"

    private static let shapes: [PayloadShape] = [
        .none, .u64, .vringState, .vringAddress, .memoryTable, .memoryRegion, .log, .config,
        .inflight, .iotlb, .deviceState, .uuid, .vringArea, .sharedMemoryMap, .sharedMemoryConfig,
        .opaque,
    ]

    static let seeds: [[UInt8]] = {
        let region = MemoryRegionDescription(
            guestAddress: 0, size: 1 << 20, userAddress: 1 << 40, mmapOffset: 4096)
        let payloads: [Payload] = [
            .none, .u64(0x1_0000_0001), .vringState(VringState(index: 1, value: 256)),
            .vringAddress(
                VringAddress(
                    index: 0, flags: 1, descriptors: 0x1000, used: 0x3000, available: 0x2000,
                    log: 0x4000)),
            .memoryTable([region, region]), .memoryRegion(region),
            .log(LogDescription(size: 4096, offset: 0)),
            .config(ConfigAccess(offset: 8, flags: 1, contents: [1, 2, 3, 4])),
            .inflight(
                InflightDescription(
                    mmapSize: 1 << 16, mmapOffset: 0, queueCount: 2, queueSize: 128)),
            .iotlb(
                IOTLBMessage(
                    iova: 1 << 20, size: 4096, userAddress: 1 << 40, permissions: 3, type: 2)),
            .deviceState(DeviceStateTransfer(direction: 1, phase: 0)),
            .uuid([UInt8](repeating: 7, count: 16)),
            .vringArea(VringArea(queueAndFlags: 1, size: 4096, offset: 0)),
            .sharedMemoryMap(
                SharedMemoryMap(regionID: 1, fdOffset: 0, offset: 4096, size: 4096, flags: 1)),
            .sharedMemoryConfig([1 << 20, 1 << 21]), .opaque([1, 2, 3]),
        ]
        return payloads.enumerated().flatMap { index, payload in
            let message = Message(request: UInt32(index + 1), flags: 1, payload: payload.bytes)
            return [
                [UInt8(index), 0] + payload.bytes,
                [UInt8(index), 1] + message.bytes.prefix(Header.byteCount) + payload.bytes,
            ]
        }
    }()

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let shape = input.pick(Self.shapes)
        if input.flag() {
            let header = try? Header(input.take(Header.byteCount)) { "request \($0)" }
            if let header {
                try require(header.size <= 4096, "a header says \(header.size) bytes")
            }
        }
        let bytes = input.rest()
        guard let payload = try? Payload(shape, bytes, message: "FUZZ") else { return false }
        // What is read is written again as the same, but for padding.
        let again = try? Payload(shape, payload.bytes, message: "FUZZ")
        try require(again == payload, "\(payload) is written as \(String(describing: again))")
        return true
    }
}
