import TestSupport
import Testing
import VhostUser

/// A message as bytes: header and payload (vhost-user specification, "Header").
func packet(_ request: UInt32, flags: UInt32 = 1, _ payload: [UInt8] = []) -> [UInt8] {
    littleEndian(request, flags, UInt32(payload.count)) + payload
}

@Suite("The message codec")
struct CodecTests {
    /// The numbers and names of the specification, "Front-end message types".
    @Test(
        "numbers requests as the specification does",
        arguments: [
            (1, "GET_FEATURES"), (2, "SET_FEATURES"), (3, "SET_OWNER"), (4, "RESET_OWNER"),
            (5, "SET_MEM_TABLE"), (6, "SET_LOG_BASE"), (7, "SET_LOG_FD"), (8, "SET_VRING_NUM"),
            (9, "SET_VRING_ADDR"), (10, "SET_VRING_BASE"), (11, "GET_VRING_BASE"),
            (12, "SET_VRING_KICK"), (13, "SET_VRING_CALL"), (14, "SET_VRING_ERR"),
            (15, "GET_PROTOCOL_FEATURES"), (16, "SET_PROTOCOL_FEATURES"), (17, "GET_QUEUE_NUM"),
            (18, "SET_VRING_ENABLE"), (19, "SEND_RARP"), (20, "NET_SET_MTU"),
            (21, "SET_BACKEND_REQ_FD"), (22, "IOTLB_MSG"), (23, "SET_VRING_ENDIAN"),
            (24, "GET_CONFIG"), (25, "SET_CONFIG"), (26, "CREATE_CRYPTO_SESSION"),
            (27, "CLOSE_CRYPTO_SESSION"), (28, "POSTCOPY_ADVISE"), (29, "POSTCOPY_LISTEN"),
            (30, "POSTCOPY_END"), (31, "GET_INFLIGHT_FD"), (32, "SET_INFLIGHT_FD"),
            (33, "GPU_SET_SOCKET"), (34, "RESET_DEVICE"), (35, "VRING_KICK"),
            (36, "GET_MAX_MEM_SLOTS"), (37, "ADD_MEM_REG"), (38, "REM_MEM_REG"),
            (39, "SET_STATUS"), (40, "GET_STATUS"), (41, "GET_SHARED_OBJECT"),
            (42, "SET_DEVICE_STATE_FD"), (43, "CHECK_DEVICE_STATE"), (44, "GET_SHMEM_CONFIG"),
            (45, "GET_VRING_BASE_SKIP_DRAIN"),
        ] as [(UInt32, String)])
    func names(number: UInt32, name: String) throws {
        #expect(FrontendRequest(rawValue: number)?.rule.name == name)
    }

    @Test(
        "numbers back-end requests as the specification does",
        arguments: [
            (1, "IOTLB_MSG"), (2, "CONFIG_CHANGE_MSG"), (3, "VRING_HOST_NOTIFIER_MSG"),
            (4, "VRING_CALL"), (5, "VRING_ERR"), (6, "SHARED_OBJECT_ADD"),
            (7, "SHARED_OBJECT_REMOVE"), (8, "SHARED_OBJECT_LOOKUP"), (9, "SHMEM_MAP"),
            (10, "SHMEM_UNMAP"),
        ] as [(UInt32, String)])
    func backendNames(number: UInt32, name: String) throws {
        #expect(BackendRequest(rawValue: number)?.rule.name == "BACKEND_" + name)
    }

    /// Payloads as their C structures lie in memory, with what they mean.
    static let vectors: [(PayloadShape, [UInt8], Payload)] = [
        (.none, [], .none),
        (.u64, littleEndian(0x0102_0304_0506_0708 as UInt64), .u64(0x0102_0304_0506_0708)),
        (
            .vringState, littleEndian(3, 256 as UInt32),
            .vringState(VringState(index: 3, value: 256))
        ),
        (
            .vringAddress,
            littleEndian(1, 1 as UInt32) + littleEndian(0x1000, 0x3000, 0x2000, 0x4000 as UInt64),
            .vringAddress(
                VringAddress(
                    index: 1, flags: 1, descriptors: 0x1000, used: 0x3000, available: 0x2000,
                    log: 0x4000))
        ),
        (
            .memoryTable,
            littleEndian(2, 0 as UInt32) + littleEndian(0x0, 0x1000, 0x7000, 0x0 as UInt64)
                + littleEndian(0x10000, 0x2000, 0x9000, 0x1000 as UInt64),
            .memoryTable([
                MemoryRegionDescription(
                    guestAddress: 0, size: 0x1000, userAddress: 0x7000, mmapOffset: 0),
                MemoryRegionDescription(
                    guestAddress: 0x10000, size: 0x2000, userAddress: 0x9000, mmapOffset: 0x1000),
            ])
        ),
        (
            .memoryRegion, littleEndian(0, 0x1000, 0x2000, 0x3000, 0x4000 as UInt64),
            .memoryRegion(
                MemoryRegionDescription(
                    guestAddress: 0x1000, size: 0x2000, userAddress: 0x3000, mmapOffset: 0x4000))
        ),
        (
            .log, littleEndian(0x8000, 0x1000 as UInt64),
            .log(LogDescription(size: 0x8000, offset: 0x1000))
        ),
        (
            .config, littleEndian(8, 3, 1 as UInt32) + [9, 8, 7],
            .config(ConfigAccess(offset: 8, flags: 1, contents: [9, 8, 7]))
        ),
        (
            .inflight,
            littleEndian(0x2000, 0x40 as UInt64) + littleEndian(4, 128 as UInt16) + [0, 0, 0, 0],
            .inflight(
                InflightDescription(
                    mmapSize: 0x2000, mmapOffset: 0x40, queueCount: 4, queueSize: 128))
        ),
        (
            .iotlb, littleEndian(0x1000, 0x2000, 0x3000 as UInt64) + [3, 2, 0, 0, 0, 0, 0, 0],
            .iotlb(
                IOTLBMessage(
                    iova: 0x1000, size: 0x2000, userAddress: 0x3000, permissions: 3, type: 2))
        ),
        (
            .deviceState, littleEndian(1, 0 as UInt32),
            .deviceState(DeviceStateTransfer(direction: 1, phase: 0))
        ),
        (.uuid, Array(0..<16), .uuid(Array(0..<16))),
        (
            .vringArea, littleEndian(2, 0x1000, 0x3000 as UInt64),
            .vringArea(VringArea(queueAndFlags: 2, size: 0x1000, offset: 0x3000))
        ),
        (
            .sharedMemoryMap,
            [5, 0, 0, 0, 0, 0, 0, 0] + littleEndian(0x1000, 0x2000, 0x3000, 1 as UInt64),
            .sharedMemoryMap(
                SharedMemoryMap(
                    regionID: 5, fdOffset: 0x1000, offset: 0x2000, size: 0x3000, flags: 1))
        ),
        (
            .sharedMemoryConfig, littleEndian(2, 0 as UInt32) + littleEndian(0x1000, 0 as UInt64),
            .sharedMemoryConfig([0x1000, 0])
        ),
    ]

    @Test("reads and writes payloads", arguments: vectors.indices)
    func roundTrip(index: Int) throws {
        let (shape, bytes, payload) = Self.vectors[index]
        #expect(try Payload(shape, bytes, message: "TEST") == payload)
        #expect(payload.bytes == bytes)
    }

    @Test("refuses every payload that is cut short", arguments: vectors.indices)
    func truncated(index: Int) {
        let (shape, bytes, _) = Self.vectors[index]
        // The C structures of these two end in padding that need not be sent.
        let needed =
            switch shape {
            case .inflight: 20
            case .iotlb: 26
            default: bytes.count
            }
        for count in 0..<needed {
            #expect(throws: ProtocolError.self) {
                try Payload(shape, Array(bytes.prefix(count)), message: "TEST")
            }
        }
    }

    @Test("refuses bytes after the payload", arguments: vectors.indices)
    func tooLong(index: Int) {
        let (shape, bytes, _) = Self.vectors[index]
        let extra = [UInt8](repeating: 0, count: 8 * 32 + 4096)
        #expect(throws: ProtocolError.self) {
            try Payload(shape, bytes + extra, message: "TEST")
        }
    }

    @Test(
        "names the field that is wrong",
        arguments: [
            (.vringState, littleEndian(1 as UInt32), "num"),
            (.u64, [], "u64"),
            (.u64, littleEndian(1, 2 as UInt64), "size"),
            (.memoryTable, littleEndian(9, 0 as UInt32), "num regions"),
            (.memoryTable, littleEndian(1, 0 as UInt32) + littleEndian(1 as UInt64), "region size"),
            (.config, littleEndian(0, 257, 0 as UInt32), "config size"),
            (.config, littleEndian(0, 4, 0 as UInt32) + [1], "config contents"),
            (.iotlb, littleEndian(0, 0, 0 as UInt64) + [4, 1], "permissions"),
            (.iotlb, littleEndian(0, 0, 0 as UInt64) + [3, 5], "type"),
            (.deviceState, littleEndian(2, 0 as UInt32), "direction"),
            (.deviceState, littleEndian(0, 1 as UInt32), "phase"),
        ] as [(PayloadShape, [UInt8], String)])
    func namesField(shape: PayloadShape, payload: [UInt8], field: String) throws {
        let error = #expect(throws: ProtocolError.self) {
            try Payload(shape, payload, message: "TEST")
        }
        #expect(error?.field == field)
    }

    @Test("takes a memory table that is sent as a full array")
    func fullTable() throws {
        let payload = littleEndian(1, 0 as UInt32) + [UInt8](repeating: 0, count: 8 * 32)
        #expect(
            try Payload(.memoryTable, payload, message: "TEST")
                == .memoryTable([
                    MemoryRegionDescription(
                        guestAddress: 0, size: 0, userAddress: 0, mmapOffset: 0)
                ]))
    }

    @Test("checks version and size of a header")
    func headers() throws {
        let name = Connection.frontendNames
        let header = try Header(littleEndian(1, 0x9, 8 as UInt32), name: name)
        #expect(header.needsReply && !header.isReply)
        for flags in [0, 2, 3] as [UInt32] {
            let error = #expect(throws: ProtocolError.self) {
                try Header(littleEndian(1, flags, 0), name: name)
            }
            #expect(error?.field == "flags")
        }
        let error = #expect(throws: ProtocolError.self) {
            try Header(littleEndian(1, 1, 4097 as UInt32), name: name)
        }
        #expect(error == ProtocolError("GET_FEATURES", "size", "4097 is more than 4096"))
    }
}
