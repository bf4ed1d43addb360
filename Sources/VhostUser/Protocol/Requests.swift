internal import Core

/// What a front end asks a back end (vhost-user specification, "Front-end message types").
package enum FrontendRequest: UInt32, CaseIterable, Sendable {
    case getFeatures = 1
    case setFeatures = 2
    case setOwner = 3
    case resetOwner = 4
    case setMemTable = 5
    case setLogBase = 6
    case setLogFD = 7
    case setVringNum = 8
    case setVringAddr = 9
    case setVringBase = 10
    case getVringBase = 11
    case setVringKick = 12
    case setVringCall = 13
    case setVringErr = 14
    case getProtocolFeatures = 15
    case setProtocolFeatures = 16
    case getQueueNum = 17
    case setVringEnable = 18
    case sendRARP = 19
    case netSetMTU = 20
    case setBackendReqFD = 21
    case iotlbMsg = 22
    case setVringEndian = 23
    case getConfig = 24
    case setConfig = 25
    case createCryptoSession = 26
    case closeCryptoSession = 27
    case postcopyAdvise = 28
    case postcopyListen = 29
    case postcopyEnd = 30
    case getInflightFD = 31
    case setInflightFD = 32
    case gpuSetSocket = 33
    case resetDevice = 34
    case vringKick = 35
    case getMaxMemSlots = 36
    case addMemReg = 37
    case remMemReg = 38
    case setStatus = 39
    case getStatus = 40
    case getSharedObject = 41
    case setDeviceStateFD = 42
    case checkDeviceState = 43
    case getShmemConfig = 44
    case getVringBaseSkipDrain = 45
}

/// What a back end asks or tells a front end, over a channel of its own ("Back-end message types").
package enum BackendRequest: UInt32, CaseIterable, Sendable {
    case iotlbMsg = 1
    case configChangeMsg = 2
    case vringHostNotifierMsg = 3
    case vringCall = 4
    case vringErr = 5
    case sharedObjectAdd = 6
    case sharedObjectRemove = 7
    case sharedObjectLookup = 8
    case shmemMap = 9
    case shmemUnmap = 10
}

/// How a payload is laid out.
package enum PayloadShape: Sendable {
    case none
    case u64
    case vringState
    case vringAddress
    case memoryTable
    case memoryRegion
    case log
    case config
    case inflight
    case iotlb
    case deviceState
    case uuid
    case vringArea
    case sharedMemoryMap
    case sharedMemoryConfig
    /// Of a kind that is not looked into here: a crypto session.
    case opaque
}

/// The table that drives both ends: what a message carries, what answers it, and when it is legal.
package struct MessageRule: Sendable {
    /// The name in the specification, without its prefix.
    package let name: String
    package let payload: PayloadShape
    /// How many descriptors it carries.
    package let descriptors: ClosedRange<Int>
    /// The payload of its own reply; `nil` if it is only acknowledged where that is asked for.
    package let reply: PayloadShape?
    /// How many descriptors the reply carries.
    package let replyDescriptors: ClosedRange<Int>
    /// What must have been negotiated: extensions of the protocol, and bits of the feature word.
    package let needs: ProtocolFeatures
    package let needsFeatures: UInt64

    init(
        _ name: String, _ payload: PayloadShape = .none, fds: ClosedRange<Int> = 0...0,
        reply: PayloadShape? = nil, replyFDs: ClosedRange<Int> = 0...0,
        needs: ProtocolFeatures = [], features: UInt64 = 0
    ) {
        self.name = name
        self.payload = payload
        self.descriptors = fds
        self.reply = reply
        self.replyDescriptors = replyFDs
        self.needs = needs
        needsFeatures = features
    }
}

extension FrontendRequest {
    package var rule: MessageRule { Self.rules[Int(rawValue) - 1] }

    private static let rules: [MessageRule] = allCases.map { $0.makeRule() }

    private func makeRule() -> MessageRule {
        typealias Rule = MessageRule
        return switch self {
        case .getFeatures: Rule("GET_FEATURES", reply: .u64)
        case .setFeatures: Rule("SET_FEATURES", .u64)
        case .setOwner: Rule("SET_OWNER")
        case .resetOwner: Rule("RESET_OWNER")
        case .setMemTable: Rule("SET_MEM_TABLE", .memoryTable, fds: 0...8)
        case .setLogBase:
            Rule("SET_LOG_BASE", .log, fds: 1...1, reply: .u64, needs: .logSharedMemory)
        case .setLogFD: Rule("SET_LOG_FD", fds: 1...1)
        case .setVringNum: Rule("SET_VRING_NUM", .vringState)
        case .setVringAddr: Rule("SET_VRING_ADDR", .vringAddress)
        case .setVringBase: Rule("SET_VRING_BASE", .vringState)
        case .getVringBase: Rule("GET_VRING_BASE", .vringState, reply: .vringState)
        case .setVringKick: Rule("SET_VRING_KICK", .u64, fds: 0...1)
        case .setVringCall: Rule("SET_VRING_CALL", .u64, fds: 0...1)
        case .setVringErr: Rule("SET_VRING_ERR", .u64, fds: 0...1)
        case .getProtocolFeatures: Rule("GET_PROTOCOL_FEATURES", reply: .u64)
        case .setProtocolFeatures: Rule("SET_PROTOCOL_FEATURES", .u64)
        case .getQueueNum: Rule("GET_QUEUE_NUM", reply: .u64, needs: .multiQueue)
        case .setVringEnable: Rule("SET_VRING_ENABLE", .vringState)
        case .sendRARP: Rule("SEND_RARP", .u64, needs: .rarp)
        case .netSetMTU: Rule("NET_SET_MTU", .u64, needs: .mtu)
        case .setBackendReqFD:
            Rule("SET_BACKEND_REQ_FD", fds: 1...1, needs: .backendRequests)
        case .iotlbMsg:
            Rule("IOTLB_MSG", .iotlb, reply: .u64, features: VirtioFeature.accessPlatform)
        case .setVringEndian: Rule("SET_VRING_ENDIAN", .vringState, needs: .crossEndian)
        case .getConfig: Rule("GET_CONFIG", .config, reply: .config, needs: .config)
        case .setConfig: Rule("SET_CONFIG", .config, needs: .config)
        case .createCryptoSession:
            Rule("CREATE_CRYPTO_SESSION", .opaque, reply: .opaque, needs: .cryptoSession)
        case .closeCryptoSession: Rule("CLOSE_CRYPTO_SESSION", .u64, needs: .cryptoSession)
        case .postcopyAdvise:
            Rule("POSTCOPY_ADVISE", reply: PayloadShape.none, replyFDs: 1...1, needs: .pageFault)
        case .postcopyListen: Rule("POSTCOPY_LISTEN", needs: .pageFault)
        case .postcopyEnd: Rule("POSTCOPY_END", reply: .u64, needs: .pageFault)
        case .getInflightFD:
            Rule("GET_INFLIGHT_FD", .inflight, reply: .inflight, replyFDs: 0...1, needs: .inflight)
        case .setInflightFD: Rule("SET_INFLIGHT_FD", .inflight, fds: 1...1, needs: .inflight)
        case .gpuSetSocket: Rule("GPU_SET_SOCKET", fds: 1...1)
        case .resetDevice: Rule("RESET_DEVICE", needs: .resetDevice)
        case .vringKick: Rule("VRING_KICK", .vringState, needs: .inBandNotifications)
        case .getMaxMemSlots: Rule("GET_MAX_MEM_SLOTS", reply: .u64, needs: .memorySlots)
        case .addMemReg: Rule("ADD_MEM_REG", .memoryRegion, fds: 1...1, needs: .memorySlots)
        // Some front ends attach a descriptor, which is to be closed.
        case .remMemReg: Rule("REM_MEM_REG", .memoryRegion, fds: 0...1, needs: .memorySlots)
        case .setStatus: Rule("SET_STATUS", .u64, needs: .status)
        case .getStatus: Rule("GET_STATUS", reply: .u64, needs: .status)
        case .getSharedObject:
            Rule(
                "GET_SHARED_OBJECT", .uuid, reply: PayloadShape.none, replyFDs: 0...1,
                needs: .sharedObject)
        case .setDeviceStateFD:
            Rule(
                "SET_DEVICE_STATE_FD", .deviceState, fds: 1...1, reply: .u64, replyFDs: 0...1,
                needs: .deviceState)
        case .checkDeviceState: Rule("CHECK_DEVICE_STATE", reply: .u64, needs: .deviceState)
        case .getShmemConfig:
            Rule("GET_SHMEM_CONFIG", reply: .sharedMemoryConfig, needs: .sharedMemory)
        case .getVringBaseSkipDrain:
            Rule("GET_VRING_BASE_SKIP_DRAIN", .vringState, reply: .vringState, needs: .skipDrain)
        }
    }
}

extension BackendRequest {
    package var rule: MessageRule { Self.rules[Int(rawValue) - 1] }

    private static let rules: [MessageRule] = allCases.map { $0.makeRule() }

    private func makeRule() -> MessageRule {
        typealias Rule = MessageRule
        return switch self {
        case .iotlbMsg: Rule("BACKEND_IOTLB_MSG", .iotlb)
        case .configChangeMsg: Rule("BACKEND_CONFIG_CHANGE_MSG", needs: .config)
        case .vringHostNotifierMsg:
            Rule(
                "BACKEND_VRING_HOST_NOTIFIER_MSG", .vringArea, fds: 0...1, needs: .hostNotifier)
        case .vringCall: Rule("BACKEND_VRING_CALL", .vringState, needs: .inBandNotifications)
        case .vringErr: Rule("BACKEND_VRING_ERR", .vringState, needs: .inBandNotifications)
        case .sharedObjectAdd: Rule("BACKEND_SHARED_OBJECT_ADD", .uuid, needs: .sharedObject)
        case .sharedObjectRemove:
            Rule("BACKEND_SHARED_OBJECT_REMOVE", .uuid, needs: .sharedObject)
        case .sharedObjectLookup:
            Rule(
                "BACKEND_SHARED_OBJECT_LOOKUP", .uuid, reply: .u64, replyFDs: 0...1,
                needs: .sharedObject)
        case .shmemMap:
            Rule("BACKEND_SHMEM_MAP", .sharedMemoryMap, fds: 1...1, needs: .sharedMemory)
        case .shmemUnmap: Rule("BACKEND_SHMEM_UNMAP", .sharedMemoryMap, needs: .sharedMemory)
        }
    }
}
