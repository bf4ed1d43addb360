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
