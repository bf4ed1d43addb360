import BenchmarkSupport
import Core
import TestSupport

/// What is done over and over.
enum FSOperation: String {
    /// A piece at a random place of a file.
    case read, write
    /// The attributes of a random file of a folder, by its name.
    case stat
    /// The attributes of an open file.
    case fstat
    /// A new file: CREATE, FLUSH, RELEASE, FORGET, each operation in a folder of its own.
    case create
    /// LOOKUP, UNLINK, FORGET, likewise.
    case unlink
    /// All of a folder: OPENDIR, READDIRPLUS until the end, RELEASEDIR.
    case readdir

    /// The requests that it consists of.
    var steps: [FUSECode] {
        switch self {
        case .read: [.read]
        case .write: [.write]
        case .stat: [.lookUp]
        case .fstat: [.getAttributes]
        case .create: [.create, .flush, .release, .forget]
        case .unlink: [.lookUp, .unlink, .forget]
        case .readdir: [.openFolder, .readFolderPlus, .releaseFolder]
        }
    }
}

/// A load of one operation.
struct FSLoad: QueueLoad {
    /// What is known of an operation that is under way.
    private struct Place {
        var call: FUSECall
        /// Where it makes and removes files, and how many it has had.
        let folder: UInt64
        var count = 0
        var step = 0
        var node: UInt64 = 0
        var handle: UInt64 = 0
        var offset: UInt64 = 0
    }

    private let operation: FSOperation
    private let size: Int
    /// The file or folder that is read.
    private let node: UInt64
    private let handle: UInt64
    private let steps: [FUSECode]
    /// Files that each place may make or remove.
    private let fileLimit: Int
    private var places: [Place]
    private var random: UInt64

    var depth: Int { places.count }

    init(
        _ operation: FSOperation, size: Int, _ session: FSSession, lane: Int, node: UInt64,
        handle: UInt64, fileLimit: Int
    ) {
        self.operation = operation
        self.size = size
        self.node = node
        self.handle = handle
        self.fileLimit = fileLimit
        steps = operation.steps
        let room = session.rooms[lane]
        places = zip(room.calls, room.folders).map { Place(call: $0, folder: $1) }
        random = UInt64(lane + 1) &* 0x9e37_79b9_7f4a_7c15
    }

    mutating func send(_ index: Int, to queue: DriverQueue) throws -> Bool {
        let step = steps[places[index].step]
        if places[index].step == 0, operation == .create || operation == .unlink {
            if places[index].count == fileLimit { return false }
            places[index].count += 1
        }
        try begin(step, index)
        switch step {
        case .read, .write:
            try places[index].call.putTransfer(handle: handle, offset: randomOffset(), size: size)
            try places[index].call.sendWithData(
                to: queue, place: index, isWrite: step == .write, size: size,
                replySize: step == .write ? 8 : 0)
        case .readFolderPlus:
            let place = places[index]
            try places[index].call.putTransfer(
                handle: place.handle, offset: place.offset, size: BenchmarkFolder.listingSize)
            try places[index].call.sendWithData(
                to: queue, place: index, isWrite: false, size: BenchmarkFolder.listingSize)
        default:
            try putArguments(step, index)
            try places[index].call.send(to: queue, place: index, replySize: Self.replySize(step))
        }
        return true
    }

    private mutating func begin(_ step: FUSECode, _ index: Int) throws {
        let place = places[index]
        let usesFolder =
            step == .create || step == .unlink || operation == .unlink && place.step == 0
        let usesNode = step == .flush || step == .release || step == .forget
        let target = usesFolder ? place.folder : usesNode ? place.node : node
        try places[index].call.begin(step, target)
    }

    private mutating func putArguments(_ step: FUSECode, _ index: Int) throws {
        let handle = places[index].handle
        switch step {
        case .lookUp:
            let number =
                operation == .stat
                ? randomNumber(BenchmarkFolder.fileCount)
                : places[index].count - 1
            try places[index].call.put(name: BenchmarkFolder.fileName(number))
        case .unlink:
            try places[index].call.put(name: BenchmarkFolder.fileName(places[index].count - 1))
        case .create:
            try places[index].call.put(0o2 | 0o100 as UInt32)  // O_RDWR, O_CREAT
            try places[index].call.put(0o100644 as UInt32)
            try places[index].call.put(0 as UInt64)
            try places[index].call.put(name: BenchmarkFolder.fileName(places[index].count - 1))
        case .getAttributes:
            try places[index].call.put(1 as UInt64)  // by handle
            try places[index].call.put(self.handle)
        case .flush, .release, .releaseFolder:
            try places[index].call.put(handle)
            try places[index].call.put(0 as UInt64)
            try places[index].call.put(0 as UInt64)
        case .openFolder: try places[index].call.put(0o200000 as UInt64)  // O_DIRECTORY
        case .forget: try places[index].call.put(1 as UInt64)
        default: break
        }
    }

    private static func replySize(_ step: FUSECode) -> UInt32? {
        switch step {
        case .lookUp: FUSESize.entry
        case .getAttributes: FUSESize.attributes
        case .create: FUSESize.entry + FUSESize.opened
        case .openFolder: FUSESize.opened
        case .forget: nil
        default: 0
        }
    }

    mutating func receive(_ index: Int, written: UInt32) throws -> Bool {
        let step = steps[places[index].step]
        if step != .forget {
            let length = try places[index].call.check(written: written)
            if try !take(step, index, length: length) { return false }
        }
        places[index].step += 1
        if places[index].step < steps.count { return false }
        places[index].step = 0
        return true
    }

    /// Remembers what an answer says.
    /// - Returns: whether the step is done.
    private mutating func take(_ step: FUSECode, _ index: Int, length: Int) throws -> Bool {
        let call = places[index].call
        switch step {
        case .read where length != size:
            throw VhostUserClient.Failure("\(length) of \(size) bytes were read")
        case .write where try call.value(at: 0) != UInt64(size):
            throw VhostUserClient.Failure("not all of \(size) bytes were written")
        case .lookUp: places[index].node = try call.value(at: 0)
        case .create:
            places[index].node = try call.value(at: 0)
            places[index].handle = try call.value(at: UInt64(FUSESize.entry))
        case .openFolder:
            places[index].handle = try call.value(at: 0)
            places[index].offset = 0
        case .readFolderPlus:
            if length == 0 { return true }
            places[index].offset = try Self.lastOffset(call, length)
            return false
        default: break
        }
        return true
    }

    /// Where a folder goes on behind the entries of an answer.
    private static func lastOffset(_ call: FUSECall, _ length: Int) throws -> UInt64 {
        var place = 0
        var last: UInt64 = 0
        while place + 152 <= length {
            last = try call.dataValue(at: place + 136, as: UInt64.self)
            let name = Int(try call.dataValue(at: place + 144, as: UInt32.self))
            place += 152 + (name + 7) & ~7
        }
        return last
    }

    private mutating func randomNumber(_ limit: Int) -> Int {
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        return Int(random % UInt64(limit))
    }

    private mutating func randomOffset() -> UInt64 {
        UInt64(randomNumber(BenchmarkFolder.dataSize / size) * size)
    }
}
