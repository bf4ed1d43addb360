import Core
import Glibc
import TestSupport
import VhostUser

/// Whole sessions of a hostile front end with our back-end server, over a socket pair.
struct BackendServerTarget: FuzzTarget {
    static let name = "vhost-backend"
    static let about = "the back-end server with a hostile front end"

    /// A ring with two requests runs, and then comes each of the usual messages.
    static let seeds: [[UInt8]] = (0..<2 * HostileFrontend.usual.count).map { number in
        FuzzSeed.make { seed in
            seed.put(number % 2 == 1)
            seed.putZeroes(4)
            seed.choose(2, of: 9)
            for (address, flags, head) in [(0x3000, 1, 0), (0x4000, 2, 1)] as [(UInt16, UInt8, Int)]
            {
                seed.choose(0, of: 8)
                seed.put(address)
                seed.choose(0, of: 8)
                seed.put([16, flags])
                seed.put(number % 2 == 1)
                seed.choose(1, of: 9)
                seed.choose(head, of: 9)
            }
            seed.choose(0, of: 4)
            seed.choose(0, of: 16)
            seed.put(true)
            seed.choose(0, of: 16)
            seed.choose(number / 2, of: HostileFrontend.usual.count)
            seed.putZeroes(24)
        }
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let loop = try EventLoop()
        let device = EchoDevice(on: loop)
        let (near, far) = try UnixSocket.pair()
        let server = BackendServer(device, on: loop, as: .connected(far))
        server.start()
        defer { server.stop() }
        let front = try HostileFrontend(near, loop)
        try front.negotiate(&input)
        while !input.isEmpty, server.isConnected {
            guard (try? front.sendNext(&input)) != nil else { break }
        }
        near.shutDown()
        let isOver = loop.run(timeoutMilliseconds: 5000) { !server.isConnected }
        try require(isOver, "the server does not notice that its front end has gone")
        try require(device.runningQueues.isEmpty, "queues run without a front end")
        return device.starts > 0
    }
}

/// Mostly well-formed messages with odd values, some damaged.
private final class HostileFrontend {
    private let socket: UnixSocket
    private let loop: EventLoop
    private let files: [SharedFD]
    private let events: [EventFD]
    private let rings: MemoryMapping

    static let usual: [FrontendRequest] = [
        .setMemTable, .setVringNum, .setVringAddr, .setVringBase, .setVringKick, .setVringCall,
        .setVringErr, .setVringEnable, .getVringBase, .addMemReg, .remMemReg, .setInflightFD,
        .getInflightFD, .getConfig, .setConfig, .setStatus, .resetDevice, .setFeatures,
        .setLogBase, .setLogFD, .setDeviceStateFD, .checkDeviceState, .vringKick,
        .getVringBaseSkipDrain,
    ]

    init(_ socket: UnixSocket, _ loop: EventLoop) throws {
        self.socket = socket
        self.loop = loop
        files = try [0x40_0000, 0x1000, 0x8000].map { (size: UInt64) in
            SharedFD(try MemFD(name: "fuzz", size: size).fd.duplicate())
        }
        rings = try MemoryMapping(sharing: files[0].rawValue, size: 0x8000)
        events = [try EventFD(), try EventFD()]
    }

    /// Agrees on most things and sets up a ring that runs, unless the input wants otherwise.
    func negotiate(_ input: inout FuzzInput) throws {
        var features = VirtioFeature.version1 | VhostFeature.protocolFeatures
        if input.flag() { features |= VirtioFeature.packedRing }
        if input.flag() { features |= VhostFeature.logAll }
        if input.flag() { features |= VirtioFeature.indirectDescriptors }
        try send(.getFeatures, .none)
        try send(.setProtocolFeatures, .u64(input.rarely(16) ? input.edge() : 0x9f22b))
        try send(.setOwner, .none)
        try send(.setFeatures, .u64(input.rarely(16) ? input.edge() : features))
        fillRings(&input)
        if input.rarely(4) { return }
        let region = MemoryRegionDescription(
            guestAddress: 0, size: 0x40_0000, userAddress: 0, mmapOffset: 0)
        try send(.setMemTable, .memoryTable([region]), fds: [files[0]])
        try send(.setVringNum, .vringState(VringState(index: 0, value: 8)))
        try send(
            .setVringAddr,
            .vringAddress(
                VringAddress(
                    index: 0, flags: 0, descriptors: 0, used: 0x1000, available: 0x2000, log: 0)))
        try send(.setVringEnable, .vringState(VringState(index: 0, value: 1)))
        try send(.setVringKick, .u64(0), fds: [events[0].fd])
        kick()
    }

    /// Descriptors at 0 and an available ring at 0x2000.
    private func fillRings(_ input: inout FuzzInput) {
        let count = input.below(9)
        for index in 0..<count {
            let address = input.rarely(8) ? input.edge() : UInt64(input.number(UInt16.self))
            let length = input.rarely(8) ? input.number() : UInt32(input.byte())
            let flags = UInt16(input.byte() & 7) | (input.flag() ? 0x80 : 0)
            // SAFETY: eight descriptors and an available ring lie inside the mapping.
            let place = unsafe rings.base + 16 * index
            unsafe place.storeBytes(of: address, as: UInt64.self)
            unsafe place.storeBytes(of: length, toByteOffset: 8, as: UInt32.self)
            unsafe place.storeBytes(of: flags, toByteOffset: 12, as: UInt16.self)
            unsafe place.storeBytes(of: UInt16(input.below(9)), toByteOffset: 14, as: UInt16.self)
            unsafe rings.base.storeBytes(
                of: UInt16(input.below(9)), toByteOffset: 0x2004 + 2 * index, as: UInt16.self)
        }
        unsafe rings.base.storeBytes(of: UInt16(count), toByteOffset: 0x2002, as: UInt16.self)
    }

    func sendNext(_ input: inout FuzzInput) throws {
        if input.rarely(16) { fillRings(&input) }
        if input.flag() { kick() }
        let request =
            input.rarely(16) ? input.pick(FrontendRequest.allCases) : input.pick(Self.usual)
        let payload = payload(request.rule.payload, &input)
        var count = request.rule.descriptors.lowerBound
        if case .memoryTable(let regions) = payload { count = regions.count }
        if case .u64(let value) = payload, request.rule.descriptors.upperBound == 1 {
            count = value & 0x100 == 0 ? 1 : 0
        }
        if input.rarely(64) { count = input.below(12) }
        let isEvent = request.rule.payload == .u64
        var fds: [SharedFD] = []
        for _ in 0..<count { fds.append(isEvent ? input.pick(events).fd : input.pick(files)) }
        // Most mistakes are only refused, so that what follows is looked at as well.
        let flags: UInt32 = input.rarely(32) ? UInt32(input.byte()) : 9
        var bytes = Message(
            request: request.rawValue, flags: flags, payload: payload.bytes
        ).bytes
        if input.rarely(64) { bytes[input.below(bytes.count)] = input.byte() }
        if input.rarely(128) { bytes = input.take(64) }
        try send(bytes, fds: fds)
    }

    private func send(
        _ request: FrontendRequest, _ payload: Payload, fds: [SharedFD] = []
    ) throws {
        try send(
            Message(request: request.rawValue, flags: 9, payload: payload.bytes).bytes, fds: fds)
    }

    /// Replies are taken, so that they do not pile up.
    private func send(_ bytes: [UInt8], fds: [SharedFD]) throws {
        if bytes.isEmpty { return }
        do throws(SystemError) {
            try socket.send(bytes, fds: fds)
        } catch  where [EPIPE, ECONNRESET].contains(error.code) {
            // A server that has closed the connection has done what it may.
            return
        }
        loop.runOnce(timeoutMilliseconds: 0)
        _ = try socket.receive(upTo: 4096)
    }

    private func kick() {
        events[0].signal()
        loop.runOnce(timeoutMilliseconds: 0)
    }

    // MARK: Payloads

    private func number(_ input: inout FuzzInput) -> UInt64 {
        input.flag() ? input.edge() : UInt64(input.below(17)) << 12
    }

    private func queue(_ input: inout FuzzInput) -> UInt32 { UInt32(input.rarely(32) ? 2 : 0) }

    private func region(_ input: inout FuzzInput) -> MemoryRegionDescription {
        let start = UInt64(input.below(9)) << 12
        return MemoryRegionDescription(
            guestAddress: start, size: UInt64(1 + input.below(16)) << 12,
            userAddress: input.rarely(8) ? number(&input) : start,
            mmapOffset: input.flag() ? number(&input) : 0)
    }

    private func payload(_ shape: PayloadShape, _ input: inout FuzzInput) -> Payload {
        switch shape {
        case .none: return .none
        case .u64: return .u64(number(&input))
        case .vringState:
            let value = input.flag() ? UInt32(input.below(9)) : input.number()
            return .vringState(VringState(index: queue(&input), value: value))
        case .vringAddress:
            return .vringAddress(
                VringAddress(
                    index: queue(&input), flags: UInt32(input.byte()),
                    descriptors: number(&input), used: number(&input), available: number(&input),
                    log: number(&input)))
        case .memoryTable:
            return .memoryTable((0..<input.below(4)).map { _ in region(&input) })
        case .memoryRegion: return .memoryRegion(region(&input))
        case .log: return .log(LogDescription(size: number(&input), offset: number(&input)))
        case .config:
            return .config(
                ConfigAccess(
                    offset: input.flag() ? UInt32(input.below(20)) : input.number(),
                    flags: UInt32(input.below(3)),
                    contents: [UInt8](repeating: 7, count: input.below(40))))
        case .inflight:
            return .inflight(
                InflightDescription(
                    mmapSize: number(&input), mmapOffset: number(&input),
                    queueCount: UInt16(input.below(4)),
                    queueSize: input.flag() ? 8 : input.number()))
        case .deviceState:
            return .deviceState(DeviceStateTransfer(direction: UInt32(input.below(2)), phase: 0))
        default: return .opaque(input.take(input.below(48)))
        }
    }
}
