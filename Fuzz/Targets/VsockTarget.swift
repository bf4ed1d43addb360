import Core
import TestSupport
import VhostUser

@testable import VsockBackend

/// A guest that sends any packets, and programs on the host that come, write, and leave.
struct VsockTarget: FuzzTarget {
    static let name = "vsock"
    static let about = "packets of a guest and the doings of programs to the socket device"
    static let seeds: [[UInt8]] = [
        seed([.offer, .offer, .request, .accept, .data, .hostWrite, .shutdown, .offer]),
        seed([.call, .hostWrite, .offer, .response, .offer, .data, .hostWrite, .offer, .reset]),
        seed([.offer, .request, .accept, .hostLeave, .offer, .credit, .offer, .restart, .data]),
        seed([.request, .data, .credit, .request, .offer, .offer, .offer, .offer]),
    ]

    /// What happens in a step.
    private enum Event: CaseIterable {
        case request, response, reset, shutdown, data, credit, anything
        case offer, accept, hostWrite, hostRead, hostLeave, call, restart
    }

    private static let steps = 40
    private static let cid: UInt64 = 3
    private static let ports: [UInt32] = [80, 81, 1 << 30, 1 << 30 + 1]

    private let folder: TestFolder
    private let loop: EventLoop
    /// What the device listens at, and what a program listens at.
    private let listener: UnixListener
    private let program: UnixListener

    init() throws {
        // As the program does.
        SignalFD.ignoreBrokenPipes()
        folder = try TestFolder()
        loop = try EventLoop()
        listener = try UnixListener(path: folder["vsock"])
        program = try UnixListener(path: folder["vsock_80"])
    }

    private static func seed(_ events: [Event]) -> [UInt8] {
        FuzzSeed.make { seed in
            seed.choose(0, of: 2)
            for event in events {
                seed.choose(Event.allCases.firstIndex(of: event) ?? 0, of: Event.allCases.count)
                // The first of everything that the step chooses.
                seed.putZeroes(choiceSize(event))
            }
        }
    }

    /// How many bytes the choices of a step take.
    private static func choiceSize(_ event: Event) -> Int {
        switch event {
        case .accept, .hostLeave, .restart: 0
        case .offer, .call: 1
        case .hostWrite, .hostRead: 2
        case .response: 5
        case .data: 8
        default: 6
        }
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let device = VsockDevice(
            VsockHost(listener, prefix: folder["vsock"], on: loop), cid: Self.cid, loop: loop)
        defer {
            device.reset()
            // The next input finds no connections that wait.
            while let socket = try? program.accept() { socket.shutDown() }
            while let socket = try? listener.accept() { socket.shutDown() }
        }
        var guest = try Guest(
            ring: input.flag() ? VirtioFeature.packedRing : 0, device: device)
        var sockets: [UnixSocket] = []
        for _ in 0..<Self.steps where !input.isEmpty {
            try step(&input, &guest, &sockets)
            loop.runOnce(timeoutMilliseconds: 0)
            try guest.collect()
        }
        return guest.received > 0
    }

    private func step(
        _ input: inout FuzzInput, _ guest: inout Guest, _ sockets: inout [UnixSocket]
    ) throws {
        let event = input.pick(Event.allCases)
        switch event {
        case .offer: guest.offer(input.rarely(8) ? input.below(64) : 1024)
        case .accept: if let socket = try program.accept() { sockets.append(socket) }
        case .hostWrite:
            let bytes = [UInt8](repeating: 1, count: 1 + input.below(1 << 12))
            try? sockets.last?.send(bytes, timeoutMilliseconds: 0)
        case .hostRead: _ = try? sockets.last?.receive(upTo: 1 + input.below(1 << 16))
        case .hostLeave: sockets.popLast()?.shutDown()
        case .call:
            let socket = try UnixSocket(connectingTo: folder["vsock"])
            let line = input.rarely(4) ? input.take(40) : Array("CONNECT 80\n".utf8)
            try? socket.send(line, timeoutMilliseconds: 0)
            sockets.append(socket)
        case .restart: try guest.restart()
        default:
            let header = header(event, &input)
            let length = input.rarely(4) ? input.below(1 << 14) : Int(min(header.length, 1 << 14))
            guest.send(header, payload: length)
        }
    }

    private func header(_ event: Event, _ input: inout FuzzInput) -> VsockHeader {
        let operation: UInt16 =
            switch event {
            case .request: VsockHeader.Operation.request
            case .response: VsockHeader.Operation.response
            case .reset: VsockHeader.Operation.reset
            case .shutdown: VsockHeader.Operation.shutdown
            case .data: VsockHeader.Operation.data
            case .credit: VsockHeader.Operation.creditUpdate
            default: UInt16(truncatingIfNeeded: input.edge())
            }
        let isOdd = event == .anything
        var header = VsockHeader(
            from: VsockAddress(
                cid: isOdd && input.flag() ? input.edge() : Self.cid,
                port: input.rarely(8) ? 80 : 1000),
            to: VsockAddress(
                cid: isOdd && input.flag() ? input.edge() : VsockAddress.hostCID,
                port: event == .response ? Self.ports[2] : input.pick(Self.ports)),
            operation)
        if isOdd { header.type = UInt16(truncatingIfNeeded: input.below(3)) }
        header.flags = UInt32(truncatingIfNeeded: input.below(5))
        header.bufferSize = input.rarely(4) ? UInt32(truncatingIfNeeded: input.edge()) : 1 << 16
        header.forwarded = input.rarely(4) ? UInt32(truncatingIfNeeded: input.edge()) : 0
        if event == .data { header.length = UInt32(truncatingIfNeeded: input.edge()) }
        return header
    }
}

/// The guest's driver.
private struct Guest {
    private let device: VsockDevice
    private let scratch: ScratchMemory
    private let queues: [DriverQueue]
    private let kicks: [EventFD]
    private let call: EventFD
    private let space: DriverBuffer
    private var buffers: [UInt64: UInt32] = [:]
    private var nextToken: UInt64 = 0
    private(set) var received = 0

    init(ring: UInt64, device: VsockDevice) throws {
        self.device = device
        scratch = try ScratchMemory(size: 1 << 20)
        let (memory, features) = (scratch, ring | VirtioFeature.version1)
        queues = (0..<3).map { _ in DriverQueue(memory, size: 64, features: features) }
        kicks = try (0..<3).map { _ in try EventFD() }
        call = try EventFD()
        space = scratch.buffer(1 << 14)
        try start()
    }

    private func start() throws {
        for (index, queue) in queues.enumerated() {
            try device.startQueue(
                index, queue.setup(scratch.memory, kick: kicks[index], call: call))
        }
    }

    mutating func restart() throws {
        for index in queues.indices { _ = device.stopQueue(index) }
        try collect()
        try start()
    }

    private mutating func add(_ queue: Int, _ readable: [DriverBuffer], _ writable: [DriverBuffer])
    {
        nextToken += 1
        guard queues[queue].add(readable: readable, writable: writable, token: nextToken) else {
            return
        }
        if let buffer = writable.first { buffers[nextToken] = buffer.length }
        if queues[queue].publish() { kicks[queue].signal() }
    }

    mutating func offer(_ size: Int) {
        add(0, [], [DriverBuffer(space.address, UInt32(max(size, 1)))])
    }

    mutating func send(_ header: VsockHeader, payload: Int) {
        let bytes =
            littleEndian(header.source.cid, header.destination.cid)
            + littleEndian(header.source.port, header.destination.port, header.length)
            + littleEndian(header.type, header.operation)
            + littleEndian(header.flags, header.bufferSize, header.forwarded)
        let data = payload > 0 ? [DriverBuffer(space.address, UInt32(payload))] : []
        add(1, [scratch.place(bytes)] + data, [])
    }

    /// Takes what the device has finished.
    mutating func collect() throws {
        while try queues[1].popUsed() != nil {}
        while let used = try queues[0].popUsed() {
            let size = try buffers.removeValue(forKey: used.token).orFail("a buffer comes twice")
            try require(used.written <= size, "\(used.written) bytes are in a buffer of \(size)")
            if used.written == 0 { continue }
            try require(used.written >= 44, "a packet has no header")
            received += 1
        }
    }
}

extension Optional {
    fileprivate func orFail(_ message: String) throws -> Wrapped {
        guard let self else { throw FuzzFailure(message) }
        return self
    }
}
