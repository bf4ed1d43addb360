import Core
import TestSupport

/// Requests of FUSE that are sent here (Linux's `fuse.h`).
enum FUSECode: UInt32 {
    case lookUp = 1
    case forget = 2
    case getAttributes = 3
    case unlink = 10
    case open = 14
    case read = 15
    case write = 16
    case release = 18
    case flush = 25
    case start = 26
    case openFolder = 27
    case releaseFolder = 29
    case create = 35
    case readFolderPlus = 44
}

/// Sizes of what goes over the wire.
enum FUSESize {
    static let header: UInt32 = 40
    static let replyHeader: UInt32 = 16
    static let entry: UInt32 = 128
    static let attributes: UInt32 = 104
    static let opened: UInt32 = 16
    static let transferArguments: UInt32 = 40
}

/// Room for a request and its answer in guest memory, laid out as Linux's driver does it: each
/// header, the arguments and every page of data is a buffer of its own.
struct FUSECall {
    /// Who asks.
    static let user: UInt64 = 1000
    static let argumentsSize: UInt32 = 256

    private let memory: GuestMemory
    private let header: DriverBuffer
    private var arguments: DriverBuffer
    private let replyHeader: DriverBuffer
    private let reply: DriverBuffer
    private let pages: [DriverBuffer]
    private var count: UInt64 = 0
    private var buffers: [DriverBuffer] = []
    private var readableCount = 0

    /// - Parameter dataSize: bytes that it can carry at most.
    init(_ scratch: ScratchMemory, dataSize: Int) {
        memory = scratch.memory
        header = scratch.buffer(Int(FUSESize.header))
        arguments = scratch.buffer(Int(Self.argumentsSize))
        replyHeader = scratch.buffer(Int(FUSESize.replyHeader))
        reply = scratch.buffer(Int(FUSESize.entry + FUSESize.opened))
        let first = scratch.allocate(dataSize, alignment: 4096).rawValue
        pages = stride(from: 0, to: dataSize, by: 4096).map {
            DriverBuffer(GuestAddress(first + UInt64($0)), UInt32(min(4096, dataSize - $0)))
        }
    }

    /// Where data begins.
    var data: GuestAddress { pages[0].address }

    /// Begins a request.
    mutating func begin(_ code: FUSECode, _ node: UInt64) throws {
        arguments.length = 0
        count += 1
        let place = header.address.rawValue
        try memory.write(GuestAddress(place), UInt64(code.rawValue) << 32)
        try memory.write(GuestAddress(place + 8), count)
        try memory.write(GuestAddress(place + 16), node)
        try memory.write(GuestAddress(place + 24), Self.user << 32 | Self.user)
        try memory.write(GuestAddress(place + 32), 1 as UInt64)
    }

    mutating func put<Value: FixedWidthInteger & BitwiseCopyable>(_ value: Value) throws {
        try memory.write(GuestAddress(arguments.address.rawValue + UInt64(arguments.length)), value)
        arguments.length += UInt32(Value.bitWidth / 8)
    }

    /// Arguments of READ, WRITE and READDIRPLUS.
    mutating func putTransfer(handle: UInt64, offset: UInt64, size: Int) throws {
        try put(handle)
        try put(offset)
        try put(UInt64(size))
        try put(0 as UInt64)
        try put(0 as UInt64)
    }

    mutating func put(name: [UInt8]) throws {
        for byte in name { try put(byte) }
        try put(0 as UInt8)
    }

    /// Gives the request to the device.
    /// - Parameter replySize: bytes behind the answer's header; `nil`: there is no answer.
    mutating func send(to queue: DriverQueue, place: Int = 0, replySize: UInt32?) throws {
        begin(withData: false)
        readableCount = buffers.count
        if let replySize {
            buffers.append(replyHeader)
            if replySize > 0 { buffers.append(DriverBuffer(reply.address, replySize)) }
        }
        try add(to: queue, place, length: 0)
    }

    /// The same for requests with data to read or to write.
    mutating func sendWithData(
        to queue: DriverQueue, place: Int, isWrite: Bool, size: Int, replySize: UInt32 = 0
    ) throws {
        begin(withData: isWrite, size: size)
        readableCount = buffers.count
        buffers.append(replyHeader)
        if !isWrite { appendPages(size) }
        if replySize > 0 { buffers.append(DriverBuffer(reply.address, replySize)) }
        try add(to: queue, place, length: isWrite ? UInt32(size) : 0)
    }

    private mutating func begin(withData hasData: Bool, size: Int = 0) {
        buffers.removeAll(keepingCapacity: true)
        buffers.append(header)
        if arguments.length > 0 { buffers.append(arguments) }
        if hasData { appendPages(size) }
    }

    private mutating func appendPages(_ size: Int) {
        for index in 0..<(size + 4095) / 4096 { buffers.append(pages[index]) }
    }

    private mutating func add(to queue: DriverQueue, _ place: Int, length: UInt32) throws {
        try memory.write(header.address, FUSESize.header + arguments.length + length)
        let isAdded = queue.add(
            buffers.span, readableCount: readableCount, style: .indirect, token: UInt64(place))
        guard isAdded else { throw VhostUserClient.Failure("the ring is too small") }
    }

    /// Checks the answer's header.
    /// - Returns: bytes that follow it.
    func check(written: UInt32) throws -> Int {
        let place = replyHeader.address.rawValue
        let length = try memory.read(GuestAddress(place), as: UInt32.self)
        let error = try memory.read(GuestAddress(place + 4), as: Int32.self)
        let answered = try memory.read(GuestAddress(place + 8), as: UInt64.self)
        let code = try memory.read(GuestAddress(header.address.rawValue + 4), as: UInt32.self)
        guard error == 0 else {
            throw VhostUserClient.Failure("request \(code) failed with error \(-error)")
        }
        guard length == written, length >= FUSESize.replyHeader, answered == count else {
            throw VhostUserClient.Failure("request \(code) was not answered as FUSE wants it")
        }
        return Int(length - FUSESize.replyHeader)
    }

    /// A number of the answer.
    func value(at offset: UInt64) throws -> UInt64 {
        try memory.read(GuestAddress(reply.address.rawValue + offset), as: UInt64.self)
    }

    /// A number of the data that was read.
    func dataValue<Value: FixedWidthInteger & BitwiseCopyable>(
        at offset: Int, as type: Value.Type
    ) throws -> Value {
        try memory.read(GuestAddress(data.rawValue + UInt64(offset)), as: type)
    }
}
