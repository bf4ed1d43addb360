import Core
import TestSupport

extension MessageSpec {
    /// All requests of the specification, in its order.
    static var all: [MessageSpec] { session + rings + extensions }

    private static var session: [MessageSpec] {
        [
            .init(.getFeatures, "GET_FEATURES", reply: .u64),
            .init(.setFeatures, "SET_FEATURES", legal: .from(.negotiated)) {
                Packet(u64($0.currentFeatures))
            },
            .init(.setOwner, "SET_OWNER", legal: [.connected, .negotiated]),
            // Deprecated: ignored, or all rings are disabled.
            .init(
                .resetOwner, "RESET_OWNER", legal: [], disturbs: .all),
            .init(.setMemoryTable, "SET_MEM_TABLE", legal: .from(.owned)) {
                let (payload, fds) = try VhostUserClient.table(
                    $0.scratch.memory, userOffset: Session.userOffset)
                return Packet(payload, fds: fds)
            },
            .init(
                .setLogBase, "SET_LOG_BASE", needs: .bit(.log), reply: .anything,
                legal: .from(.owned)
            ) { Packet($0.logDescription, fds: [try $0.makeLog()]) },
            .init(.setLogFD, "SET_LOG_FD", needs: .bit(.log), legal: .from(.owned)) { _ in
                Packet(fds: [try EventFD().fd])
            },
        ]
    }

    private static var rings: [MessageSpec] {
        [
            .init(
                .setRingSize, "SET_VRING_NUM", legal: .from(.owned), disturbs: [.busy]
            ) { Packet(u32($0.ring, UInt32(Session.ringSize))) },
            .init(
                .setRingAddresses, "SET_VRING_ADDR", legal: .from(.memory, before: .reset),
                disturbs: [.busy]
            ) { Packet($0.ringAddresses) },
            .init(
                .setRingBase, "SET_VRING_BASE", legal: .from(.owned).subtracting([.busy]),
                disturbs: [.busy]
            ) { Packet(u32($0.ring, $0.ringBase)) },
            .init(
                .getRingBase, "GET_VRING_BASE", reply: .vringState, legal: .from(.rings),
                disturbs: .all
            ) { Packet(u32($0.ring, 0)) },
            .init(.setKick, "SET_VRING_KICK", legal: .from(.rings), disturbs: [.busy]) {
                Packet(u64(UInt64($0.ring)), fds: [try $0.event(\.kick)])
            },
            .init(.setCall, "SET_VRING_CALL", legal: .from(.owned)) {
                Packet(u64(UInt64($0.ring)), fds: [try $0.event(\.call)])
            },
            .init(.setError, "SET_VRING_ERR", legal: .from(.owned)) {
                Packet(u64(UInt64($0.ring)), fds: [try EventFD().fd])
            },
            .init(.getProtocolFeatures, "GET_PROTOCOL_FEATURES", reply: .u64),
            .init(
                .setProtocolFeatures, "SET_PROTOCOL_FEATURES",
                legal: .from(.connected, before: .memory)
            ) {
                Packet(u64($0.facts.wantedProtocol))
            },
            .init(.getQueueCount, "GET_QUEUE_NUM", needs: .bit(.multiQueue), reply: .u64),
            .init(.enableRing, "SET_VRING_ENABLE", legal: .from(.rings)) {
                Packet(u32($0.ring, 1))
            },
        ]
    }

    private static var extensions: [MessageSpec] {
        [
            .init(.sendRARP, "SEND_RARP", needs: .bit(.rarp), legal: .from(.running)) { _ in
                Packet(u64(0x5634_1200_5452))
            },
            .init(.setMTU, "NET_SET_MTU", needs: .bit(.mtu), legal: .from(.owned)) { _ in
                Packet(u64(1500))
            },
            .init(
                .setBackendChannel, "SET_BACKEND_REQ_FD", needs: .bit(.channel),
                legal: .from(.owned)
            ) { _ in Packet(fds: [try UnixSocket.pair().0.fd]) },
            // Needs VIRTIO_F_ACCESS_PLATFORM, which is not agreed on.
            .init(.iotlb, "IOTLB_MSG", needs: .impossible, reply: .status, legal: .from(.memory)) {
                _ in
                let start = Session.mainStart
                return Packet(
                    u64(start, 4096, start + Session.userOffset) + [3, 2, 0, 0, 0, 0, 0, 0])
            },
            .init(
                .setEndianness, "SET_VRING_ENDIAN", needs: .bit(.endianness),
                legal: .from(.owned, before: .enabled)
            ) { Packet(u32($0.ring, 0)) },
            .init(
                .getConfig, "GET_CONFIG", needs: .bit(.config), reply: .config,
                legal: .from(.negotiated)
            ) { Packet(u32(0, $0.kind.configSize, 0) + $0.kind.emptyConfig) },
            .init(.setConfig, "SET_CONFIG", needs: .bit(.config), legal: []) {
                // For migration, so that any field may be set.
                Packet(u32(0, $0.kind.configSize, 1) + (try $0.currentConfig()))
            },
            .init(
                .createCryptoSession, "CREATE_CRYPTO_SESSION", needs: .bit(.crypto),
                reply: .anything, legal: []
            ) { _ in Packet([UInt8](repeating: 0, count: 64)) },
            .init(
                .closeCryptoSession, "CLOSE_CRYPTO_SESSION", needs: .bit(.crypto),
                legal: []
            ) { _ in Packet(u64(1)) },
            .init(
                .postcopyAdvise, "POSTCOPY_ADVISE", needs: .bit(.postcopy), reply: .anything,
                legal: .from(.owned)),
            .init(
                .postcopyListen, "POSTCOPY_LISTEN", needs: .bit(.postcopy), legal: [],
                disturbs: .all),
            .init(
                .postcopyEnd, "POSTCOPY_END", needs: .bit(.postcopy), reply: .status,
                legal: []),
            .init(
                .getInflight, "GET_INFLIGHT_FD", needs: .bit(.inflight), reply: .inflight,
                legal: .from(.owned), disturbs: .from(.running)
            ) { Packet($0.inflightRequest) },
            .init(
                .setInflight, "SET_INFLIGHT_FD", needs: .bit(.inflight),
                legal: .from(.owned, before: .enabled), disturbs: .from(.running)
            ) {
                let inflight = try $0.anyInflight()
                return Packet(inflight.description, fds: [inflight.fd])
            },
            .init(.setGPUSocket, "GPU_SET_SOCKET", needs: .impossible) { _ in
                Packet(fds: [try UnixSocket.pair().0.fd])
            },
            .init(
                .resetDevice, "RESET_DEVICE", needs: .bit(.resetDevice), legal: .from(.owned),
                disturbs: .all),
            // Needs INBAND_NOTIFICATIONS, which is not agreed on.
            .init(.kickRing, "VRING_KICK", needs: .impossible) { Packet(u32($0.ring, 0)) },
            .init(
                .getMaximumSlots, "GET_MAX_MEM_SLOTS", needs: .bit(.memorySlots), reply: .u64,
                legal: .from(.negotiated)),
            .init(.addRegion, "ADD_MEM_REG", needs: .bit(.memorySlots), legal: .from(.owned)) { _ in
                let start = Session.spareStart + 2 * Session.spareSize
                return Packet(
                    u64(0, start, Session.spareSize, start + Session.userOffset, 0),
                    fds: [try Descriptors.memory(Session.spareSize)])
            },
            .init(
                .removeRegion, "REM_MEM_REG", needs: .bit(.memorySlots),
                legal: .from(.memory, before: .reset)
            ) {
                Packet(
                    u64(0) + VhostUserClient.describe($0.spare, userOffset: Session.userOffset))
            },
            .init(
                .setStatus, "SET_STATUS", needs: .bit(.status), legal: .from(.negotiated)
            ) { Packet(u64($0.step >= .rings ? 15 : 3)) },
            .init(
                .getStatus, "GET_STATUS", needs: .bit(.status), reply: .u64,
                legal: .from(.negotiated)),
            .init(
                .getSharedObject, "GET_SHARED_OBJECT", needs: .bit(.sharedObject), reply: .anything,
                legal: []
            ) { _ in Packet((1...16).map { $0 }) },
            .init(
                .setDeviceState, "SET_DEVICE_STATE_FD", needs: .bit(.deviceState), reply: .u64,
                legal: [.suspended]
            ) { _ in Packet(u32(0, 0), fds: [try Descriptors.pipe()]) },
            .init(
                .checkDeviceState, "CHECK_DEVICE_STATE", needs: .bit(.deviceState), reply: .status,
                legal: []),
            .init(
                .getSharedMemory, "GET_SHMEM_CONFIG", needs: .bit(.sharedMemory), reply: .anything,
                legal: .from(.negotiated)),
            // Needs GET_VRING_BASE_SKIP_DRAIN, which is not agreed on.
            .init(.suspendRing, "GET_VRING_BASE_SKIP_DRAIN", needs: .impossible) {
                Packet(u32($0.ring, 0))
            },
        ]
    }
}

extension DeviceKind {
    /// Bytes of the configuration space that are read.
    var configSize: UInt32 {
        switch self {
        case .block: 60
        case .console, .net: 12
        case .fs: 40
        case .random: 0
        case .vsock: 8
        }
    }
    var emptyConfig: [UInt8] { [UInt8](repeating: 0, count: Int(configSize)) }
}

extension Session {
    /// The configuration space; zeroes where it cannot be read.
    func currentConfig() throws -> [UInt8] {
        guard step >= .negotiated, facts.has(.config) else { return kind.emptyConfig }
        let bytes = try client.config(offset: 0, count: kind.configSize)
        return bytes.count == Int(kind.configSize) ? bytes : kind.emptyConfig
    }

    /// Memory for what is in flight: the back end's own, or where it gives none, of that form.
    func anyInflight() throws -> (description: [UInt8], fd: SharedFD) {
        if step >= .negotiated, facts.has(.inflight) { return try makeInflight() }
        let description = u64(8192, 0) + inflightRequest.dropFirst(16)
        return (description, try Descriptors.memory(8192))
    }
}

/// Descriptors of all kinds.
enum Descriptors {
    static func memory(_ size: UInt64) throws -> SharedFD {
        SharedFD(try MemFD(name: "memory", size: size).fd.duplicate())
    }
}
