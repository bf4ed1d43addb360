@testable import BlockBackend
import CLinux
import Core
import Glibc
import TestSupport

/// Requests of a hostile driver to the block device, on an image in memory.
struct BlockTarget: FuzzTarget {
    static let name = "block"
    static let about = "requests to the block device, with two engines"

    /// All kinds of requests, with each engine and style of descriptors.
    static let seeds: [[UInt8]] = (0..<6).map { number in
        FuzzSeed.make { seed in
            seed.choose(number % 2, of: 2)
            seed.choose(5, of: 6)
            for type in 0..<6 { FuzzDisk.putRequest(&seed, type: type, style: number / 2) }
        }
    }
    static let testCount = 1000

    private let disks: [FuzzDisk]

    init() throws {
        disks = [try FuzzDisk(.threads), try FuzzDisk(.automatic)]
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        try input.pick(disks).run(&input)
    }
}

/// A device with a running queue and its driver.
private final class FuzzDisk {
    private static let size = 1 << 20
    private static let dataSize: UInt64 = 1 << 18
    private static let untouched: UInt8 = 0xee

    private let image: MemFD
    private let device: BlockDevice
    private let scratch: ScratchMemory
    private let driver: DriverQueue
    private let call: EventFD
    private let kick: EventFD
    /// Where requests may have their data, and where their headers and status bytes are.
    private let data: GuestAddress
    private let headers: GuestAddress

    private struct Request {
        var hasStatus: Bool
        var status: GuestAddress
        var writable: UInt64
    }

    init(_ engine: BlockOptions.Engine) throws {
        image = try MemFD(name: "disk", size: UInt64(Self.size))
        // Nobody else can see the file by any other name.
        var options = BlockOptions(path: "/proc/self/fd/\(image.fd.rawValue)")
        options.engine = engine
        options.queueCount = 1
        options.isLocked = false
        device = try BlockDevice(RawImage(options), options)
        scratch = try ScratchMemory(size: 1 << 20)
        let features = device.features & ~(VirtioFeature.packedRing | VirtioFeature.eventIndex)
        driver = DriverQueue(scratch, size: 64, features: features, tableSize: 16)
        data = scratch.allocate(Int(Self.dataSize))
        headers = scratch.allocate(1 << 16)
        kick = try EventFD()
        call = try EventFD()
        try device.setFeatures(features)
        try device.startQueue(0, driver.setup(scratch.memory, kick: kick, call: call))
    }

    deinit { device.reset() }

    func run(_ input: inout FuzzInput) throws -> Bool {
        var requests: [UInt64: Request] = [:]
        for index in 0..<(1 + input.below(6)) {
            let token = UInt64(index)
            guard let request = try submit(token, &input) else { break }
            requests[token] = request
            if input.flag(), driver.publish() { kick.signal() }
        }
        let isAny = !requests.isEmpty
        if driver.publish() { kick.signal() }
        var wasDone = false
        while !requests.isEmpty {
            guard let used = try driver.awaitUsed(call) else {
                throw FuzzFailure("\(requests.count) requests are never answered")
            }
            guard let request = requests.removeValue(forKey: used.token) else {
                throw FuzzFailure("request \(used.token) is answered twice")
            }
            if try check(request, used) == 0 { wasDone = true }
        }
        var status = stat()
        _ = unsafe fstat(image.fd.rawValue, &status)
        try require(status.st_size == Self.size, "the image has \(status.st_size) bytes now")
        return isAny && wasDone
    }

    /// What `submit` reads for a request that is right.
    static func putRequest(_ seed: inout FuzzSeed, type: Int, style: Int) {
        seed.choose(0, of: 16)
        seed.choose(type, of: 6)
        seed.choose(0, of: 4)
        seed.put(UInt16(type))
        seed.put(0 as UInt32)
        if type >= 4 {
            // A range of eight sectors.
            seed.choose(0, of: 8)
            seed.choose(0, of: 4)
            seed.put(UInt16(type))
            seed.choose(0, of: 4)
            seed.put(8 as UInt8)
            seed.choose(0, of: 4)
            seed.put(0 as UInt8)
        }
        seed.choose(0, of: 16)
        seed.choose(0, of: 4)
        seed.choose(0, of: 4)
        seed.choose(7, of: 32)
        if type <= 1 {
            seed.put(UInt16(type * 4096))
            seed.choose(0, of: 16)
            seed.choose(0, of: 4)
        } else {
            seed.choose(0, of: 8)
        }
        seed.choose(0, of: 16)
        seed.choose(style, of: 3)
        seed.put(type % 2 == 0)
    }

    /// - Returns: the status.
    private func check(_ request: Request, _ used: UsedRequest) throws -> UInt8? {
        try require(
            UInt64(used.written) <= request.writable,
            "\(used.written) of \(request.writable) bytes are said to be written")
        guard request.hasStatus else { return nil }
        let status = try scratch.memory.read(request.status, as: UInt8.self)
        try require(status <= 2, "the status is \(status)")
        return status
    }

    /// Adds a request whose header, data and status may be cut into pieces anywhere, or missing.
    private func submit(_ token: UInt64, _ input: inout FuzzInput) throws -> Request? {
        let place = GuestAddress(headers.rawValue + 0x400 * token)
        var out = header(&input)
        let type = UInt32(out[0]) | UInt32(out[1]) << 8
        if type == 11 || type == 13 {
            for _ in 0..<(input.rarely(8) ? input.below(20) : 1) { out += range(&input) }
        }
        if input.rarely(16) { out = Array(out.prefix(input.below(out.count + 1))) }
        try scratch.memory.write(place, out)
        var readable = split(place, out.count, &input)
        var writable: [DriverBuffer] = []
        let count = dataLength(&input)
        if count > 0, type <= 1 || input.rarely(8) {
            let start = UInt64(input.number(UInt16.self))
            let isRead = input.rarely(16) ? input.flag() : type == 0
            let pieces = split(GuestAddress(data.rawValue + start), count, &input)
            if isRead { writable += pieces } else { readable += pieces }
        }
        let hasStatus = !input.rarely(16)
        let status = GuestAddress(place.rawValue + 0x3ff)
        try scratch.memory.write(status, Self.untouched)
        if hasStatus { writable.append(DriverBuffer(status, 1)) }
        if readable.isEmpty && writable.isEmpty { return nil }
        guard
            driver.add(
                readable: readable, writable: writable,
                style: input.pick([.direct, .indirect, .mixed]), token: token)
        else { return nil }
        let total = writable.reduce(0) { $0 + UInt64($1.length) }
        return Request(hasStatus: hasStatus, status: status, writable: total)
    }

    private func header(_ input: inout FuzzInput) -> [UInt8] {
        let types: [UInt32] = [0, 1, 4, 8, 11, 13]
        let type = input.rarely(16) ? input.number() : input.pick(types)
        let sector = input.rarely(4) ? input.edge() : UInt64(input.number(UInt16.self)) & 0xfff
        return littleEndian(type) + littleEndian(input.number(UInt32.self))
            + littleEndian(sector)
    }

    /// A range to discard or to clear.
    private func range(_ input: inout FuzzInput) -> [UInt8] {
        let sector = input.rarely(4) ? input.edge() : UInt64(input.number(UInt16.self)) & 0xfff
        let count =
            input.rarely(4) ? UInt32(truncatingIfNeeded: input.edge()) : UInt32(input.byte())
        let flags = input.rarely(4) ? input.number() : UInt32(input.byte() & 1)
        return littleEndian(sector) + littleEndian(count)
            + littleEndian(flags)
    }

    private func dataLength(_ input: inout FuzzInput) -> Int {
        switch input.below(4) {
        case 3: Int(input.number(UInt16.self))
        case 2: input.below(16)
        default: 512 * (1 + input.below(32))
        }
    }

    private func split(
        _ start: GuestAddress, _ count: Int, _ input: inout FuzzInput
    ) -> [DriverBuffer] {
        var pieces: [DriverBuffer] = []
        var position = start.rawValue
        var left = count
        while left > 0 {
            let isLast = pieces.count >= 3 || !input.rarely(4)
            let size = isLast ? left : 1 + input.below(left)
            pieces.append(DriverBuffer(GuestAddress(position), UInt32(size)))
            position += UInt64(size)
            left -= size
        }
        return pieces
    }
}
