import Core
import Foundation
import TestSupport
import Testing
import VhostUser

@testable import VsockBackend

/// A device with a driver of its three queues, all on one loop, and the host's sockets.
final class VsockRig {
    static let cid: UInt64 = 7
    /// What the guest says of its buffer.
    static let guestBuffer: UInt32 = 1 << 20

    let folder: TestFolder
    let loop: EventLoop
    let device: VsockDevice
    private let scratch: ScratchMemory
    let queues: [DriverQueue]
    private let kicks: [EventFD]
    private let call: EventFD
    private var buffers: [UInt64: DriverBuffer] = [:]
    private var nextToken: UInt64 = 0

    /// - Parameters:
    ///   - state: where the queues are, if they are not new.
    ///   - bufferSize: of each of the driver's buffers for what it receives.
    init(
        ring: UInt64 = 0, state: QueueState? = nil, bufferCount: Int = 16, bufferSize: Int = 4096
    ) throws {
        folder = try TestFolder()
        loop = try EventLoop()
        let options = try VsockOptions(
            VsockOptions.schema.parse("cid=\(Self.cid),path=\(folder["vsock"])"))
        let listener = try UnixListener(adopting: VsockHost.open(options)[0])
        device = VsockDevice(
            VsockHost(listener, prefix: options.path, on: loop), cid: options.cid, loop: loop)
        let scratch = try ScratchMemory(size: 8 << 20)
        self.scratch = scratch
        queues = (0..<3).map { _ in
            DriverQueue(
                scratch, size: 64, features: ring | VirtioFeature.version1, state: state)
        }
        kicks = try (0..<3).map { _ in try EventFD() }
        call = try EventFD()
        for index in 0..<3 {
            let setup = queues[index].setup(scratch.memory, kick: kicks[index], call: call)
            try device.startQueue(index, setup)
        }
        for _ in 0..<bufferCount { offer(bufferSize) }
    }

    deinit { device.reset() }

    private func add(_ queue: Int, readable: [DriverBuffer], writable: [DriverBuffer]) {
        precondition(queues[queue].add(readable: readable, writable: writable, token: nextToken))
        if queues[queue].publish() { kicks[queue].signal() }
    }

    /// Gives the device a buffer for what the guest receives, or for an event.
    func offer(_ size: Int, queue: Int = 0) {
        nextToken += 1
        let buffer = scratch.buffer(size)
        buffers[nextToken] = buffer
        add(queue, readable: [], writable: [buffer])
    }

    /// Sends a packet as the guest.
    func send(
        _ operation: UInt16, guest: UInt32, host: UInt32, _ bytes: [UInt8] = [],
        change: (inout VsockHeader) -> Void = { _ in }
    ) {
        var header = VsockHeader(
            from: VsockAddress(cid: Self.cid, port: guest),
            to: VsockAddress(cid: VsockAddress.hostCID, port: host), operation)
        header.length = UInt32(bytes.count)
        header.bufferSize = Self.guestBuffer
        change(&header)
        nextToken += 1
        let parts =
            [scratch.place(Self.encode(header))] + (bytes.isEmpty ? [] : [scratch.place(bytes)])
        add(1, readable: parts, writable: [])
        _ = loop.run(timeoutMilliseconds: 5000) { (try? self.queues[1].popUsed()) ?? nil != nil }
    }

    /// The next packet that the guest receives, and what follows its header.
    func receive(
        within milliseconds: UInt32 = 5000
    ) throws -> (header: VsockHeader, bytes: [UInt8])? {
        guard let bytes = try used(0, within: milliseconds) else { return nil }
        let header = try #require(Self.decode(bytes))
        #expect(bytes.count == VsockHeader.size + Int(header.length))
        return (header, Array(bytes.dropFirst(VsockHeader.size)))
    }

    /// What the device has written into a queue's next buffer.
    func used(_ queue: Int, within milliseconds: UInt32 = 5000) throws -> [UInt8]? {
        var request: UsedRequest?
        _ = loop.run(timeoutMilliseconds: milliseconds) {
            request = (try? self.queues[queue].popUsed()) ?? nil
            return request != nil
        }
        return try request.map {
            Array(scratch.bytes(try #require(buffers[$0.token])).prefix(Int($0.written)))
        }
    }

    /// The operation of the next packet.
    func operation() throws -> UInt16? { try receive()?.header.operation }

    static func encode(_ header: VsockHeader) -> [UInt8] {
        littleEndian(header.source.cid, header.destination.cid)
            + littleEndian(header.source.port, header.destination.port, header.length)
            + littleEndian(header.type, header.operation)
            + littleEndian(header.flags, header.bufferSize, header.forwarded)
    }

    private static func decode(_ bytes: [UInt8]) -> VsockHeader? {
        guard bytes.count >= VsockHeader.size else { return nil }
        func number(_ offset: Int, _ size: Int) -> UInt64 {
            bytes[offset..<offset + size].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        var header = VsockHeader(
            from: VsockAddress(cid: number(0, 8), port: UInt32(number(16, 4))),
            to: VsockAddress(cid: number(8, 8), port: UInt32(number(20, 4))),
            UInt16(number(30, 2)))
        header.length = UInt32(number(24, 4))
        header.type = UInt16(number(28, 2))
        header.flags = UInt32(number(32, 4))
        header.bufferSize = UInt32(number(36, 4))
        header.forwarded = UInt32(number(40, 4))
        return header
    }
}
