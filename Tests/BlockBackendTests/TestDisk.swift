@testable import BlockBackend
import CLinux
import Core
import Glibc
import TestSupport

/// An image file in a folder of its own, removed when the test is over.
final class ScratchImage {
    let folder: TestFolder
    let path: String

    /// - Parameter isInMemory: whether the file is to live in a tmpfs.
    init(_ bytes: [UInt8], isInMemory: Bool = false) throws {
        folder = try TestFolder(in: isInMemory ? "/dev/shm" : "/tmp")
        path = try folder.file("disk.img", bytes)
    }

    convenience init(size: Int, isInMemory: Bool = false) throws {
        try self.init([UInt8](repeating: 0, count: size), isInMemory: isInMemory)
    }

    /// What the file holds now.
    var bytes: [UInt8] {
        get throws { try readFile(path) }
    }

    /// Bytes of storage that the file takes up.
    var allocatedSize: Int {
        var status = stat()
        _ = unsafe stat(path, &status)
        return Int(status.st_blocks) * 512
    }
}

/// Requests, status bytes and feature bits, spelled out once more so that the tests do not believe
/// what the device believes (VIRTIO 1.3, section 5.2).
enum Wire {
    static let read: UInt32 = 0
    static let write: UInt32 = 1
    static let flush: UInt32 = 4
    static let identify: UInt32 = 8
    static let discard: UInt32 = 11
    static let writeZeroes: UInt32 = 13

    static let ok: UInt8 = 0
    static let ioError: UInt8 = 1
    static let unsupported: UInt8 = 2
    /// What the tests put where the status is to appear.
    static let untouched: UInt8 = 0xee

    static let readOnlyFeature: UInt64 = 1 << 5
    static let flushFeature: UInt64 = 1 << 9
    static let configurableCacheFeature: UInt64 = 1 << 11
    static let multiQueueFeature: UInt64 = 1 << 12
    static let discardFeature: UInt64 = 1 << 13
    static let writeZeroesFeature: UInt64 = 1 << 14

    static func header(_ type: UInt32, sector: UInt64 = 0) -> [UInt8] {
        bytes(type) + bytes(0 as UInt32) + bytes(sector)
    }

    static func range(_ sector: UInt64, _ count: UInt32, flags: UInt32 = 0) -> [UInt8] {
        bytes(sector) + bytes(count) + bytes(flags)
    }

    static func bytes<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
        (0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> T($0 * 8)) }
    }
}

/// A started device with one driver on queue 0.
final class TestDisk {
    let device: BlockDevice
    let scratch: ScratchMemory
    let driver: DriverQueue
    let kick: EventFD
    let call: EventFD
    private var isStarted = false
    /// Where the device stopped.
    private var state: QueueState?

    init(
        _ options: BlockOptions, features: UInt64? = nil, ring: UInt64 = 0, size: UInt16 = 64,
        tableSize: Int = 16, memory: UInt64 = 32 << 20
    ) throws {
        device = try BlockDevice(RawImage(options), options)
        let ringBits = VirtioFeature.packedRing | VirtioFeature.eventIndex
        let accepted = (features ?? device.features & ~ringBits) | ring | VirtioFeature.version1
        scratch = try ScratchMemory(size: memory)
        driver = DriverQueue(scratch, size: size, features: accepted, tableSize: tableSize)
        kick = try EventFD()
        call = try EventFD()
        try device.setFeatures(accepted)
        try start()
    }

    deinit { stop() }

    func start(log: DirtyLog? = nil, inflight: InflightRegion? = nil) throws {
        var setup = driver.setup(scratch.memory, kick: kick, call: call)
        // Requests that it has not taken yet are the device's to find.
        if let state { setup.state = state }
        setup.dirtyLog = log
        setup.inflight = inflight
        let isPacked = driver.features & VirtioFeature.packedRing != 0
        let used = isPacked ? driver.layout.descriptors : driver.layout.device
        setup.usedLogAddress = log == nil ? nil : used
        try device.startQueue(0, setup)
        isStarted = true
    }

    @discardableResult
    func stop() -> QueueState? {
        guard isStarted else { return nil }
        isStarted = false
        state = device.stopQueue(0)
        return state
    }

    /// Stops the queue without waiting for requests.
    func suspend() -> QueueState {
        isStarted = false
        let state = device.suspendQueue(0)
        self.state = state
        return state
    }

    /// Puts the same bytes into buffers of the given sizes; the last one takes the rest.
    func split(_ bytes: [UInt8], _ sizes: [Int]) -> [DriverBuffer] {
        var rest = bytes[...]
        var buffers: [DriverBuffer] = []
        for size in sizes where size < rest.count {
            buffers.append(scratch.place(Array(rest.prefix(size))))
            rest = rest.dropFirst(size)
        }
        if !rest.isEmpty { buffers.append(scratch.place(Array(rest))) }
        return buffers
    }

    func submit(
        _ readable: [DriverBuffer], _ writable: [DriverBuffer], style: DescriptorStyle = .direct,
        token: UInt64 = 0
    ) {
        precondition(
            driver.add(readable: readable, writable: writable, style: style, token: token))
        if driver.publish() { kick.signal() }
    }

    /// Waits for the next finished request; `nil` after ten seconds.
    func nextUsed() throws -> UsedRequest? {
        try driver.awaitUsed(call)
    }

    /// One request from beginning to end: its status, what was read and the length that the device
    /// reported.
    func request(
        _ type: UInt32, sector: UInt64 = 0, _ payload: [UInt8] = [], reading count: Int = 0,
        style: DescriptorStyle = .direct
    ) throws -> (status: UInt8, data: [UInt8], written: UInt32) {
        let data = scratch.buffer(count)
        let status = scratch.place([Wire.untouched])
        submit(
            [scratch.place(Wire.header(type, sector: sector))]
                + (payload.isEmpty ? [] : [scratch.place(payload)]),
            (count > 0 ? [data] : []) + [status], style: style)
        let used = try nextUsed()
        return (scratch.bytes(status)[0], scratch.bytes(data), used?.written ?? 0xdead)
    }
}

/// Bytes that differ from place to place and from seed to seed.
func pattern(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var state = seed &* 0x9e37_79b9_7f4a_7c15 | 1
    let words = (0..<(count + 7) / 8).map { _ in
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }
    return unsafe words.withUnsafeBytes { unsafe Array($0.prefix(count)) }
}
