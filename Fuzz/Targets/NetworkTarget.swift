import Core
import TestSupport

@testable import NetworkBackend

/// A hostile driver, and a hostile peer at the other end of the stream, of a network interface.
struct NetworkTarget: FuzzTarget {
    static let name = "network"
    static let about = "frames between a network device's rings and a stream, both hostile"

    /// Frames in both directions, with each kind of ring and buffers.
    static let seeds: [[UInt8]] = (0..<8).map { number in
        FuzzSeed.make { seed in
            seed.put(number >= 4)
            seed.choose(number & 1, of: 2)
            seed.choose(number >> 1 & 1, of: 2)
            seed.choose(11, of: 24)
            for step in 0..<12 {
                seed.choose(step % 3, of: 6)
                switch step % 3 {
                case 0: FuzzNetwork.putOffer(&seed)
                case 1: FuzzNetwork.putFrame(&seed, isPacket: step > 6)
                default: FuzzNetwork.putPacket(&seed)
                }
            }
        }
    }
    static let testCount = 600

    private let folder: TestFolder

    init() throws { folder = try TestFolder() }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let network = try FuzzNetwork(&input, listeningAt: folder["net"])
        for _ in 0..<(1 + input.below(24)) { try network.step(&input) }
        return try network.finish()
    }
}

/// A device with both queues, the drivers, and the peer.
private final class FuzzNetwork {
    private let device: NetworkDevice
    private let scratch: ScratchMemory
    private let drivers: [DriverQueue]
    private let kicks: [EventFD]
    private let calls: [EventFD]
    private let data: GuestAddress
    private var peer: UnixSocket?
    /// What the peer has not read; it must not be waited for.
    private var budget = 60_000
    /// Requests, by token: the room for what the device may write.
    private var open: [[UInt64: UInt64]] = [[:], [:]]
    private var next: UInt64 = 0
    private var isGarbled = false
    private var moved = 0

    /// - Parameter path: where the device listens, if it is to.
    init(_ input: inout FuzzInput, listeningAt path: String) throws {
        let (near, far) = try UnixSocket.pair()
        let listens = input.flag()
        let link = listens ? "stream,server=on,path=\(path)" : "connected,fd=\(far.fd.rawValue)"
        let options = try NetworkOptions(NetworkOptions.schema.parse(link))
        device = try NetworkDevice(options, LinkFiles(options), on: EventLoop())
        peer = listens ? try UnixSocket(connectingTo: path) : near
        let features =
            VirtioFeature.version1 | VirtioFeature.indirectDescriptors
            | (input.flag() ? VirtioFeature.packedRing : 0)
            | (input.flag() ? 0 : NetworkFeature.mergeableBuffers) | Self.offloads
        let scratch = try ScratchMemory(size: 1 << 20)
        self.scratch = scratch
        drivers = (0..<2).map { _ in
            DriverQueue(scratch, size: 16, features: features, tableSize: 64)
        }
        kicks = try [EventFD(), EventFD()]
        calls = try [EventFD(), EventFD()]
        data = scratch.allocate(1 << 17)
        try device.setFeatures(features)
        for queue in 0..<2 { try start(queue, drivers[queue].state) }
    }

    deinit { device.reset() }

    private func start(_ queue: Int, _ state: QueueState) throws {
        var setup = drivers[queue].setup(
            scratch.memory, kick: kicks[queue], call: calls[queue])
        setup.state = state
        do {
            try device.startQueue(queue, setup)
        } catch {
            // A ring that makes no sense cannot be started again.
            try require(isGarbled, "queue \(queue) does not start: \(error)")
        }
    }

    func step(_ input: inout FuzzInput) throws {
        switch input.below(6) {
        case 0: add(0, buffers(&input))
        case 1: add(1, try frame(&input))
        case 2: try send(&input)
        case 3: try restart(input.below(2))
        case 4: try read()
        default: try garble(&input)
        }
        for queue in 0..<2 { try collect(queue) }
    }

    // MARK: The driver

    private func add(_ queue: Int, _ request: (buffers: [DriverBuffer], style: DescriptorStyle)) {
        let isInput = queue == 0
        let room = request.buffers.reduce(0 as UInt64) { $0 + UInt64($1.length) }
        next += 1
        guard !request.buffers.isEmpty,
            drivers[queue].add(
                readable: isInput ? [] : request.buffers, writable: isInput ? request.buffers : [],
                style: request.style, token: next)
        else { return }
        open[queue][next] = isInput ? room : 0
        if drivers[queue].publish() { kicks[queue].signal() }
    }

    private func split(_ total: Int, _ input: inout FuzzInput) -> [DriverBuffer] {
        var buffers: [DriverBuffer] = []
        var place = data.rawValue + UInt64(input.below(1 << 12))
        var left = total
        while left > 0, buffers.count < 20 {
            let count = input.rarely(4) ? 1 + input.below(left) : left
            buffers.append(DriverBuffer(GuestAddress(place), UInt32(count)))
            place += UInt64(count)
            left -= count
        }
        return buffers
    }

    private func style(_ input: inout FuzzInput) -> DescriptorStyle {
        input.pick([.direct, .indirect, .mixed])
    }

    private func buffers(
        _ input: inout FuzzInput
    ) -> (buffers: [DriverBuffer], style: DescriptorStyle) {
        let total = input.rarely(4) ? input.below(64) : 1536
        return (split(total, &input), style(&input))
    }

    static func putOffer(_ seed: inout FuzzSeed) {
        seed.choose(0, of: 4)
        seed.choose(0, of: 1 << 12)
        seed.choose(0, of: 4)
        seed.choose(0, of: 3)
    }

    private func frame(
        _ input: inout FuzzInput
    ) throws -> (buffers: [DriverBuffer], style: DescriptorStyle) {
        var header = [UInt8](repeating: 0, count: 12)
        if input.rarely(4) { header = input.take(12) }
        if input.rarely(3) { header = Self.packet(&input) }
        let pieces = split(input.rarely(4) ? input.below(70_000) : 100, &input)
        if let first = pieces.first { try scratch.memory.write(first.address, header) }
        return (pieces, style(&input))
    }

    private static let offloads =
        NetworkFeature.checksum | NetworkFeature.guestChecksum | NetworkFeature.hostTSO4
        | NetworkFeature.hostTSO6 | NetworkFeature.hostUSO

    /// A header that leaves segments to the device, and the packet's, with some bytes changed.
    private static func packet(_ input: inout FuzzInput) -> [UInt8] {
        let isIPv6 = input.flag()
        let size = UInt8(truncatingIfNeeded: 1 + input.below(200))
        var bytes: [UInt8] = [1, isIPv6 ? 4 : 1, 0, 0, size, 0, isIPv6 ? 54 : 34, 0, 16, 0, 0, 0]
        bytes += [UInt8](repeating: 2, count: 12)
        if isIPv6 {
            bytes += [0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, 6, 64] + [UInt8](repeating: 9, count: 32)
        } else {
            bytes += [8, 0, 0x45, 0, 0, 60, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
        }
        bytes += [0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0x50, 0x19, 1, 0, 0, 0, 0, 0]
        for _ in 0..<input.below(4) { bytes[input.below(bytes.count)] = input.byte() }
        return bytes
    }

    /// - Parameter isPacket: it leaves segments to the device.
    static func putFrame(_ seed: inout FuzzSeed, isPacket: Bool) {
        seed.choose(0, of: 4)
        seed.choose(isPacket ? 2 : 0, of: 3)
        if isPacket {
            seed.put(false)
            seed.choose(40, of: 200)
            seed.choose(0, of: 4)
        }
        seed.choose(0, of: 4)
        seed.choose(0, of: 1 << 12)
        seed.choose(0, of: 4)
        seed.choose(0, of: 3)
    }

    private func garble(_ input: inout FuzzInput) throws {
        isGarbled = true
        let layout = drivers[input.below(2)].layout
        let part = input.pick([layout.descriptors, layout.driver])
        let address = GuestAddress(part.rawValue + UInt64(input.below(64)))
        try scratch.memory.write(address, input.take(1 + input.below(16)))
        for kick in kicks { kick.signal() }
    }

    private func restart(_ queue: Int) throws {
        let state = device.stopQueue(queue)
        try require(
            isGarbled || state.nextAvailable == state.nextUsed, "a stopped queue keeps requests")
        try start(queue, state)
    }

    private func collect(_ queue: Int) throws {
        if isGarbled { return }
        while let used = try drivers[queue].popUsed() {
            guard let room = open[queue].removeValue(forKey: used.token) else {
                throw FuzzFailure("request \(used.token) is answered twice")
            }
            try require(
                used.written <= room, "\(used.written) of \(room) bytes are said to be written")
            if queue == 1 || used.written > 0 { moved += 1 }
        }
    }

    // MARK: The peer

    private func send(_ input: inout FuzzInput) throws {
        var bytes: [UInt8]
        switch input.below(4) {
        case 0, 1:
            let length = input.rarely(4) ? input.below(5000) : 90
            bytes = [0, 0, UInt8(length >> 8), UInt8(length & 0xff)]
            bytes += [UInt8](repeating: 0x55, count: length)
        case 2: bytes = [0, 0, 0, 60] + input.take(20)
        default: bytes = input.take(input.below(64))
        }
        guard let peer, !bytes.isEmpty, bytes.count <= budget else { return }
        budget -= bytes.count
        do {
            try peer.send(bytes)
        } catch {
            try require(error.isConnectionReset, "\(error)")
        }
    }

    static func putPacket(_ seed: inout FuzzSeed) {
        seed.choose(0, of: 4)
        seed.choose(0, of: 4)
    }

    private func read() throws {
        guard let peer else { return }
        do {
            while let piece = try peer.receive(upTo: 65536), !piece.bytes.isEmpty {}
        } catch {
            try require(error.isConnectionReset, "\(error)")
        }
    }

    // MARK: The end

    /// The peer leaves, so all frames are lost, and their buffers come back.
    func finish() throws -> Bool {
        peer = nil
        let deadline = Clock.monotonic() + 5_000_000_000
        while !isGarbled, !open[1].isEmpty {
            try collect(1)
            try require(Clock.monotonic() < deadline, "\(open[1].count) frames stay in the ring")
            Clock.sleep(milliseconds: 1)
        }
        for queue in 0..<2 {
            let state = device.stopQueue(queue)
            try require(
                isGarbled || state.nextAvailable == state.nextUsed,
                "a stopped queue keeps requests")
            try collect(queue)
        }
        return isGarbled || moved > 0
    }
}
