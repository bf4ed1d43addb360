@testable import ConsoleBackend
import Core
import TestSupport

/// What a hostile guest says to a console with three ports, one of them a channel, and what those
/// do who are at their sockets.
struct ConsoleTarget: FuzzTarget {
    static let name = "console"
    static let about = "control messages and data of a console's ports"

    /// A conversation as Linux has it, output, and input; on split and packed rings.
    static let seeds: [[UInt8]] = (0..<4).map { number in
        FuzzSeed.make { seed in
            seed.choose(number % 2, of: 2)
            seed.choose(11, of: 12)
            for queue in 0..<3 { FuzzConsole.putRoom(&seed, queue: queue) }
            FuzzConsole.putMessage(&seed, port: 0, event: 0)
            for port in 0..<3 { FuzzConsole.putMessage(&seed, port: port, event: 3) }
            FuzzConsole.putMessage(&seed, port: number / 2, event: 6)
            FuzzConsole.putOutput(&seed, port: number / 2)
            seed.choose(3, of: 6)
        }
    }
    static let testCount = 500

    private let folder: TestFolder
    private let listeners: [UnixListener]

    init() throws {
        SignalFD.ignoreBrokenPipes()
        let folder = try TestFolder()
        self.folder = folder
        listeners = try ["a", "b"].map { try UnixListener(path: folder[$0]) }
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let features = input.flag() ? VirtioFeature.packedRing : 0
        let console = try FuzzConsole(listeners, in: folder, features: features)
        return try console.run(&input)
    }
}

/// A console device, the driver of its queues, and those who connect to its sockets.
private final class FuzzConsole {
    private static let portCount = 3
    /// Room for a driver's buffers, used again and again.
    private static let areaSize = 1 << 14

    private let folder: TestFolder
    private let loop: EventLoop
    private let device: ConsoleDevice
    private let scratch: ScratchMemory
    private let area: GuestAddress
    private let queues: [(driver: DriverQueue, kick: EventFD)]
    /// Bytes that may be written to each buffer that is under way, by token.
    private var writable: [UInt64: UInt32] = [:]
    private var nextToken: UInt64 = 0
    private var underWay: [Int]
    private var clients: [UnixSocket] = []

    init(_ listeners: [UnixListener], in folder: TestFolder, features: UInt64) throws {
        self.folder = folder
        let loop = try EventLoop()
        self.loop = loop
        let ports: [ConsoleOptions.Port] = [
            .init(name: "", isConsole: true, backing: .null),
            .init(name: "a", isConsole: false, backing: .socket("a")),
            .init(name: "b", isConsole: true, backing: .socket("b"), replaySize: 100),
        ]
        let ends: [any HostEnd] =
            [NullEnd()]
            + zip(listeners, ports.dropFirst()).map { listener, port in
                SocketEnd(
                    listener, replaySize: port.replaySize, isLossless: !port.isConsole, on: loop)
            }
        device = ConsoleDevice(zip(ports, ends).map { ConsolePort($0, $1) }, on: loop) {}
        let scratch = try ScratchMemory(size: 1 << 18)
        self.scratch = scratch
        area = scratch.allocate(Self.areaSize)
        let features =
            features | VirtioFeature.version1 | VirtioFeature.indirectDescriptors
            | ConsoleFeature.multiport
        try device.setFeatures(features)
        queues = try (0..<device.queueCount).map { _ in
            (DriverQueue(scratch, size: 16, features: features, tableSize: 16), try EventFD())
        }
        underWay = queues.map { _ in 0 }
        for (index, queue) in queues.enumerated() {
            try device.startQueue(index, queue.driver.setup(scratch.memory, kick: queue.kick))
        }
    }

    deinit { device.reset() }

    func run(_ input: inout FuzzInput) throws -> Bool {
        var wasUsed = false
        for _ in 0..<(1 + input.below(12)) {
            switch input.below(6) {
            case 0: try sendMessage(&input)
            case 1: try sendOutput(&input)
            case 2: try giveRoom(&input)
            case 3: try useSocket(&input)
            case 4: useConfiguration(&input)
            default:
                loop.runOnce(timeoutMilliseconds: 0)
                wasUsed = try collect() || wasUsed
            }
        }
        kickAll()
        // Who reads nothing holds up nobody for so little.
        let isDone = loop.run(timeoutMilliseconds: 5000) {
            wasUsed = ((try? collect()) ?? false) || wasUsed
            return [1, 3, 5, 7].allSatisfy { underWay[$0] == 0 }
        }
        _ = try collect()
        try require(isDone, "output is never taken: \(underWay)")
        return wasUsed
    }

    private func kickAll() {
        for queue in queues where queue.driver.publish() { queue.kick.signal() }
    }

    /// Takes back what the device has used, and looks at it.
    private func collect() throws -> Bool {
        var wasUsed = false
        for (index, queue) in queues.enumerated() {
            while let used = try queue.driver.popUsed() {
                guard let limit = writable.removeValue(forKey: used.token) else {
                    throw FuzzFailure("buffer \(used.token) is used twice")
                }
                underWay[index] -= 1
                try require(
                    used.written <= (index % 2 == 0 ? limit : 0),
                    "\(used.written) of \(limit) bytes of queue \(index) are said to be written")
                wasUsed = true
            }
        }
        return wasUsed
    }

    private func add(_ index: Int, _ out: [UInt8], room: Int, _ input: inout FuzzInput) throws {
        let place = GuestAddress(area.rawValue + UInt64(input.below(Self.areaSize / 2)))
        try scratch.memory.write(place, out)
        let readable = out.isEmpty ? [] : [DriverBuffer(place, UInt32(out.count))]
        let back = room == 0 ? [] : [DriverBuffer(area, UInt32(room))]
        guard !readable.isEmpty || !back.isEmpty else { return }
        let queue = queues[index]
        guard
            queue.driver.add(
                readable: readable, writable: back,
                style: input.pick([.direct, .indirect, .mixed]), token: nextToken)
        else { return }
        writable[nextToken] = UInt32(room)
        nextToken += 1
        underWay[index] += 1
        if input.flag(), queue.driver.publish() { queue.kick.signal() }
    }

    // MARK: What the guest does

    private func sendMessage(_ input: inout FuzzInput) throws {
        let port: UInt32 =
            input.rarely(8) ? input.number() : UInt32(input.below(Self.portCount))
        let event: UInt16 = input.rarely(8) ? input.number() : UInt16(input.below(8))
        let value: UInt16 = input.rarely(4) ? input.number() : 1
        var bytes = ConsoleMessage(port: port, event: event, value: value).bytes
        if input.rarely(8) { bytes = Array(bytes.prefix(input.below(9))) + input.take(3) }
        try add(3, bytes, room: input.rarely(8) ? 8 : 0, &input)
    }

    private func sendOutput(_ input: inout FuzzInput) throws {
        let index = [1, 5, 7][input.below(Self.portCount)]
        let count = input.rarely(4) ? input.below(4096) : input.below(64)
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        try add(index, bytes, room: input.rarely(8) ? 8 : 0, &input)
    }

    private func giveRoom(_ input: inout FuzzInput) throws {
        let index = [2, 0, 4, 6][input.below(4)]
        let room = input.rarely(4) ? input.below(1000) : 64
        try add(index, input.rarely(8) ? [1, 2, 3] : [], room: room, &input)
    }

    private func useConfiguration(_ input: inout FuzzInput) {
        let offset = Int(truncatingIfNeeded: input.edge())
        let count = Int(truncatingIfNeeded: input.edge())
        _ = device.readConfig(offset: offset, count: count)
        device.writeConfig(offset: input.flag() ? 8 : offset, input.take(4))
    }

    // MARK: What others do

    private func useSocket(_ input: inout FuzzInput) throws {
        switch input.below(4) {
        case 0:
            // Refused while too many wait.
            let path = folder[input.pick(["a", "b"])]
            if let client = try? UnixSocket(connectingTo: path) { clients.append(client) }
        case 1 where !clients.isEmpty: clients.remove(at: input.below(clients.count))
        case 2 where !clients.isEmpty:
            let client = clients[input.below(clients.count)]
            try? client.send([UInt8](repeating: 7, count: 1 + input.below(1000)))
        case 3 where !clients.isEmpty:
            _ = try? clients[input.below(clients.count)].receive(upTo: 10_000)
        default: break
        }
    }

    // MARK: What seeds are made of

    static func putMessage(_ seed: inout FuzzSeed, port: Int, event: Int) {
        seed.choose(0, of: 6)
        seed.choose(0, of: 8)
        seed.choose(port, of: portCount)
        seed.choose(0, of: 8)
        seed.choose(event, of: 8)
        seed.choose(0, of: 4)
        seed.choose(0, of: 8)
        seed.choose(0, of: 8)
        putPlace(&seed)
    }

    static func putOutput(_ seed: inout FuzzSeed, port: Int) {
        seed.choose(1, of: 6)
        seed.choose(port, of: portCount)
        seed.choose(0, of: 4)
        seed.choose(9, of: 64)
        seed.choose(0, of: 8)
        putPlace(&seed)
    }

    static func putRoom(_ seed: inout FuzzSeed, queue: Int) {
        seed.choose(2, of: 6)
        seed.choose(queue, of: 4)
        seed.choose(0, of: 4)
        seed.choose(0, of: 8)
        putPlace(&seed)
    }

    private static func putPlace(_ seed: inout FuzzSeed) {
        seed.choose(0, of: areaSize / 2)
        seed.choose(0, of: 3)
        seed.put(true)
    }
}
