import Core
import Glibc
import TestSupport
import Testing
import VhostUser

/// Random messages, mostly well-formed ones with odd values, some damaged.
private struct MessageFuzzer {
    var random: SeededGenerator
    private let files: [SharedFD]
    private let events: [EventFD]

    init(_ seed: UInt64) throws {
        random = SeededGenerator(seed)
        files = try [0x1000, 0x8000, 0x40_0000].map { (size: UInt64) in
            SharedFD(try MemFD(name: "fuzz", size: size).fd.duplicate())
        }
        events = [try EventFD(), try EventFD()]
    }

    private mutating func number() -> UInt64 {
        let edges: [UInt64] = [
            0, 1, 2, 7, 8, 16, 0x100, 0x101, 0xfff, 0x1000, 0x8000, 0x8000_8000, 0xffff_ffff,
            1 << 30, 1 << 32 | 1 << 30, 1 << 34 | 1 << 32 | 1 << 30, 1 << 63, .max, .max - 0xfff,
        ]
        return Int.random(in: 0..<4, using: &random) == 0
            ? random.next() : edges[Int.random(in: 0..<edges.count, using: &random)]
    }

    private mutating func small() -> UInt32 { UInt32(truncatingIfNeeded: number()) }

    private mutating func queue() -> UInt32 {
        rarely() ? 2 : UInt32.random(in: 0...1, using: &random)
    }

    private mutating func rarely() -> Bool { Int.random(in: 0..<60, using: &random) == 0 }

    private mutating func request() -> FrontendRequest {
        let all = FrontendRequest.allCases
        if rarely() { return all[Int.random(in: 0..<all.count, using: &random)] }
        // Those that set up rings, with their weights.
        let usual: [(FrontendRequest, Int)] = [
            (.setMemTable, 4), (.setVringNum, 4), (.setVringAddr, 6), (.setVringBase, 2),
            (.setVringKick, 6), (.setVringCall, 2), (.setVringErr, 2), (.setVringEnable, 6),
            (.getVringBase, 2), (.addMemReg, 2), (.remMemReg, 1), (.setInflightFD, 1),
            (.getInflightFD, 1), (.getConfig, 1), (.setConfig, 1), (.setStatus, 1),
            (.resetDevice, 1), (.setFeatures, 2), (.setOwner, 1), (.setLogBase, 1), (.setLogFD, 1),
        ]
        let requests = usual.flatMap { Array(repeating: $0.0, count: $0.1) }
        return requests[Int.random(in: 0..<requests.count, using: &random)]
    }

    private mutating func region() -> MemoryRegionDescription {
        let start = UInt64.random(in: 0...8, using: &random) << 12
        return MemoryRegionDescription(
            guestAddress: start, size: UInt64.random(in: 1...16, using: &random) << 12,
            userAddress: start, mmapOffset: Bool.random(using: &random) ? 0 : number())
    }

    private mutating func payload(_ shape: PayloadShape) -> Payload {
        switch shape {
        case .none: .none
        case .u64: .u64(number())
        case .vringState:
            .vringState(
                VringState(
                    index: queue(),
                    value: Int.random(in: 0..<4, using: &random) > 0 ? queue() : small()))
        case .vringAddress:
            .vringAddress(
                VringAddress(
                    index: queue(), flags: rarely() ? small() : queue() & 1,
                    descriptors: UInt64(queue()) << 12,
                    used: UInt64(queue()) << 13, available: UInt64(queue()) << 14, log: number()))
        case .memoryTable:
            .memoryTable((0..<Int.random(in: 0...3, using: &random)).map { _ in region() })
        case .memoryRegion: .memoryRegion(region())
        case .log: .log(LogDescription(size: number(), offset: number()))
        case .config:
            .config(
                ConfigAccess(
                    offset: small(), flags: queue(),
                    contents: [UInt8](
                        repeating: 7, count: Int.random(in: 0...40, using: &random))))
        case .inflight:
            .inflight(
                InflightDescription(
                    mmapSize: number(), mmapOffset: number(), queueCount: UInt16(queue()),
                    queueSize: UInt16(1 << queue())))
        case .iotlb:
            .iotlb(
                IOTLBMessage(
                    iova: number(), size: number(), userAddress: number(), permissions: 1, type: 2))
        case .deviceState: .deviceState(DeviceStateTransfer(direction: 0, phase: 0))
        case .uuid: .uuid([UInt8](repeating: 1, count: 16))
        case .vringArea:
            .vringArea(VringArea(queueAndFlags: number(), size: number(), offset: number()))
        case .sharedMemoryMap:
            .sharedMemoryMap(
                SharedMemoryMap(
                    regionID: 0, fdOffset: number(), offset: number(), size: number(), flags: 1))
        case .sharedMemoryConfig: .sharedMemoryConfig([number()])
        case .opaque: .opaque([1, 2, 3])
        }
    }

    /// Sets up a ring that runs.
    func begin(_ peer: RawPeer) throws {
        try peer.send(
            .setMemTable, bytes(1, 0 as UInt32) + bytes(0, 0x40_0000, 0, 0 as UInt64),
            fds: [files[2]])
        try peer.send(.setVringNum, bytes(0, 8 as UInt32))
        try peer.send(.setVringAddr, bytes(0, 0 as UInt32) + bytes(0, 0x1000, 0x2000, 0 as UInt64))
        try peer.send(.setVringEnable, bytes(0, 1 as UInt32))
        try peer.send(.setVringKick, bytes(0 as UInt64), fds: [events[0].fd])
        events[0].signal()
    }

    mutating func next() -> (bytes: [UInt8], fds: [SharedFD]) {
        let request = request()
        let payload = payload(request.rule.payload)
        var count = Int.random(in: request.rule.descriptors, using: &random)
        if case .memoryTable(let regions) = payload { count = regions.count }
        if case .u64(let value) = payload, [.setVringKick, .setVringCall].contains(request) {
            count = value & 0x100 == 0 ? 1 : 0
        }
        // Most mistakes are only refused, so that what follows is looked at as well.
        let flags: UInt32 = rarely() ? 1 : 9
        var bytes = packet(request.rawValue, flags: flags, payload.bytes)
        if rarely() {
            bytes[Int.random(in: 0..<bytes.count, using: &random)] ^= 1 << queue()
        }
        let isEvent = request.rule.payload == .u64
        let fds = (0..<count).map { _ in
            isEvent
                ? events[Int.random(in: 0..<events.count, using: &random)].fd
                : files[Int.random(in: 0..<files.count, using: &random)]
        }
        if Bool.random(using: &random) { events[0].signal() }
        return (bytes, fds)
    }
}

@Suite("Random messages")
struct FuzzTests {
    @Test("do no harm to a back-end server", arguments: 1...12 as ClosedRange<UInt64>)
    func server(seed: UInt64) throws {
        let rig = try ServerRig()
        var fuzzer = try MessageFuzzer(seed)
        var accepted = 0
        for _ in 0..<40 {
            let peer = try rig.connect()
            try peer.negotiate(
                features: VirtioFeature.version1 | VhostFeature.protocolFeatures)
            try fuzzer.begin(peer)
            for _ in 0..<60 {
                let (bytes, fds) = fuzzer.next()
                do {
                    try peer.send(bytes, fds: fds)
                    // Replies are taken, so that they do not pile up.
                    rig.loop.runOnce(timeoutMilliseconds: 1)
                    if let answer = try peer.socket.receive(upTo: 4096) {
                        if answer.bytes.isEmpty { break }
                    }
                    accepted += 1
                } catch { break }
            }
            peer.socket.shutDown()
        }
        #expect(accepted > 400)
        #expect(rig.device.starts > 10)
        #expect(!(try rig.connect().ask(.getFeatures).isEmpty))
    }

    @Test("of random bytes are refused or read", arguments: 1...8 as ClosedRange<UInt64>)
    func payloads(seed: UInt64) {
        var random = SeededGenerator(seed)
        let shapes: [PayloadShape] = [
            .none, .u64, .vringState, .vringAddress, .memoryTable, .memoryRegion, .log, .config,
            .inflight, .iotlb, .deviceState, .uuid, .vringArea, .sharedMemoryMap,
            .sharedMemoryConfig, .opaque,
        ]
        for _ in 0..<2000 {
            let count = Int.random(in: 0...60, using: &random)
            let bytes = (0..<count).map { _ in
                Bool.random(using: &random) ? 0 : UInt8.random(in: 0...255, using: &random)
            }
            let shape = shapes[Int.random(in: 0..<shapes.count, using: &random)]
            // What is read is written again as the same, but for padding.
            if let payload = try? Payload(shape, bytes, message: "TEST") {
                let again = try? Payload(shape, payload.bytes, message: "TEST")
                #expect(again == payload)
            }
        }
    }
}
