internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

// What a driver knows and has open of a shared folder, as it goes to a process that shares the same
// folder later (`VirtioDevice.saveState`). Descriptors cannot go with it, so it says how each file is
// found again. Slots of tables are in their order, also those in which there is nothing, because
// numbers are never used again.
//
//     version u16 = 1; of the folder itself: inode u64
//     abilities u64
//     number of nodes' slots u32, and each: generation u32, Parts u8, and if it is used
//         look-ups u64, parent u64, type u8 (bits 15-12 of the mode), inode u64,
//         [device u64], time at which it was made i64, nanoseconds u32, [text], [handle: type, bytes]
//     number of open files' slots u32, and each: generation u32, kind u8 (0: none), and if it is used
//         node u64, flags u32, lock owner u64, process u32, by u64, flock u8,
//         number of ranges u32, and each: start u64, end u64, kind u8
//
// Texts and handles have their length before them (u32).

/// A node that another process knew.
struct SavedNode {
    var lookups: UInt64
    var parent: UInt64
    /// S_IFMT of the mode.
    var type: UInt32
    var inode: UInt64
    /// `nil`: the shared folder's.
    var device: UInt64?
    /// Whether it lies in something that is mounted in the folder.
    var isOnOtherMount: Bool
    /// When it was made.
    var seconds: Int64
    var nanoseconds: UInt32
    /// A name, a path, or nowhere.
    var place: ClosedNode.Place
    var handle: clinux_file_handle?
}

/// An open file that another process had.
struct SavedFile {
    var nodeID: UInt64
    var kind: clinux_handle_kind
    /// Of open(2): how it is accessed, O_APPEND, O_DSYNC and O_SYNC.
    var flags: Int32
    var lockOwner: LockOwner
    var held: HeldLocks

    static let keptFlags = O_ACCMODE | O_APPEND | O_DSYNC | O_SYNC
}

/// What follows in a node's slot.
private struct Parts: OptionSet {
    let rawValue: UInt8

    static let used = Parts(rawValue: 1 << 0)
    static let device = Parts(rawValue: 1 << 1)
    static let otherMount = Parts(rawValue: 1 << 2)
    static let name = Parts(rawValue: 1 << 3)
    static let path = Parts(rawValue: 1 << 4)
    static let handle = Parts(rawValue: 1 << 5)
    static let all = Parts(rawValue: 0x3f)

    init(rawValue: UInt8) { self.rawValue = rawValue }

    init(_ node: SavedNode) {
        var parts: Parts = .used
        if node.device != nil { parts.insert(.device) }
        if node.isOnOtherMount { parts.insert(.otherMount) }
        if node.handle != nil { parts.insert(.handle) }
        switch node.place {
        case .name: parts.insert(.name)
        case .path: parts.insert(.path)
        case .handle, .nowhere: break
        }
        self = parts
    }
}

enum FolderState {
    static let version: UInt16 = 1

    // MARK: Writing

    struct Writer {
        private var out = WireWriter()

        var bytes: [UInt8] { out.bytes }

        init(rootInode: UInt64, abilities: UInt64) {
            out.append(FolderState.version)
            out.append(rootInode)
            out.append(abilities)
        }

        mutating func putCount(_ count: Int) { out.append(UInt32(clamping: count)) }

        mutating func put(_ node: SavedNode?, generation: UInt32) {
            out.append(generation)
            guard let node else { return out.append(0 as UInt8) }
            out.append(Parts(node).rawValue)
            out.append(node.lookups)
            out.append(node.parent)
            out.append(UInt8(truncatingIfNeeded: node.type >> 12))
            out.append(node.inode)
            if let device = node.device { out.append(device) }
            out.append(node.seconds)
            out.append(node.nanoseconds)
            switch node.place {
            case .name(let text), .path(let text): put(text.dropLast().map(UInt8.init(bitPattern:)))
            case .handle, .nowhere: break
            }
            if let handle = node.handle {
                out.append(handle.type)
                put(handle.contents)
            }
        }

        mutating func put(_ file: SavedFile?, generation: UInt32) {
            out.append(generation)
            guard let file else { return out.append(0 as UInt8) }
            out.append(UInt8(truncatingIfNeeded: file.kind.rawValue + 1))
            out.append(file.nodeID)
            out.append(file.flags)
            out.append(file.lockOwner.id)
            out.append(file.lockOwner.process)
            out.append(file.lockOwner.handle)
            out.append(UInt8(truncatingIfNeeded: file.held.wholeFile))
            putCount(file.held.ranges.count)
            for range in file.held.ranges {
                out.append(range.start)
                out.append(range.end)
                out.append(range.kind.rawValue)
            }
        }

        private mutating func put(_ block: [UInt8]) {
            putCount(block.count)
            out.append(block)
        }
    }

    // MARK: Reading

    /// The bytes are a peer's.
    struct Reader {
        private var bytes: WireReader
        let rootInode: UInt64
        let abilities: UInt64

        init(_ bytes: [UInt8]) throws(VirtioDeviceError) {
            var reader = WireReader("shared folder's state", bytes)
            do throws(ProtocolError) {
                let version: UInt16 = try reader.number("version")
                guard version == FolderState.version else {
                    throw ProtocolError("shared folder's state", "version", "it is \(version)")
                }
                rootInode = try reader.number("inode")
                abilities = try reader.number("abilities")
            } catch {
                throw VirtioDeviceError("\(error)")
            }
            self.bytes = reader
        }

        private mutating func reading<R>(
            _ body: (inout WireReader) throws(ProtocolError) -> R
        ) throws(VirtioDeviceError) -> R {
            do throws(ProtocolError) {
                return try body(&bytes)
            } catch {
                throw VirtioDeviceError("\(error)")
            }
        }

        /// - Parameter limit: the most slots that there can be.
        mutating func count(limit: Int) throws(VirtioDeviceError) -> Int {
            let count: UInt32 = try reading { reader throws(ProtocolError) in
                try reader.number("count")
            }
            guard count <= limit else {
                throw VirtioDeviceError("it has \(count) entries, and \(limit) is the most")
            }
            return Int(count)
        }

        mutating func node() throws(VirtioDeviceError) -> (generation: UInt32, node: SavedNode?) {
            try reading { reader throws(ProtocolError) in try Self.node(&reader) }
        }

        private static func node(
            _ reader: inout WireReader
        ) throws(ProtocolError) -> (generation: UInt32, node: SavedNode?) {
            let generation: UInt32 = try reader.number("generation")
            let parts = Parts(rawValue: try reader.number("parts"))
            guard parts.isSubset(of: .all), !parts.isSuperset(of: [.name, .path]),
                parts.isEmpty || parts.contains(.used)
            else { throw wrong("parts", "0x\(String(parts.rawValue, radix: 16)) has no meaning") }
            if parts.isEmpty { return (generation, nil) }
            // Its number would be one of those that are never given.
            guard generation > 0 else { throw wrong("generation", "it is 0") }
            let lookups: UInt64 = try reader.number("look-ups")
            let parent: UInt64 = try reader.number("parent")
            let type: UInt8 = try reader.number("type")
            guard type <= 0xf else { throw wrong("type", "\(type) is none") }
            let inode: UInt64 = try reader.number("inode")
            let device: UInt64? = parts.contains(.device) ? try reader.number("device") : nil
            let seconds: UInt64 = try reader.number("time")
            let nanoseconds: UInt32 = try reader.number("nanoseconds")
            var place = ClosedNode.Place.nowhere
            if parts.contains(.name) {
                place = .name(try text(reader.block("name"), isPath: false))
            } else if parts.contains(.path) {
                place = .path(try text(reader.block("path"), isPath: true))
            }
            let handle = parts.contains(.handle) ? try handle(&reader) : nil
            let node = SavedNode(
                lookups: lookups, parent: parent, type: UInt32(type) << 12, inode: inode,
                device: device, isOnOtherMount: parts.contains(.otherMount),
                seconds: Int64(bitPattern: seconds), nanoseconds: nanoseconds, place: place,
                handle: handle)
            return (generation, node)
        }

        /// A name, or a path of names, with a NUL behind it.
        private static func text(
            _ bytes: [UInt8], isPath: Bool
        ) throws(ProtocolError) -> [CChar] {
            // Before anything is made of it, which takes memory for each part.
            guard bytes.count <= FUSELimit.path else { throw wrong("name", "it is too long") }
            let names = bytes.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
            guard isPath || names.count == 1,
                names.allSatisfy({
                    !$0.isEmpty && $0.count <= FUSELimit.name && !$0.contains(0)
                        && Array($0) != [UInt8(ascii: ".")]
                        && Array($0) != [UInt8(ascii: "."), UInt8(ascii: ".")]
                })
            else { throw wrong("name", "it is none") }
            return bytes.map(CChar.init(bitPattern:)) + [0]
        }

        private static func handle(
            _ reader: inout WireReader
        ) throws(ProtocolError) -> clinux_file_handle {
            let type: UInt32 = try reader.number("handle's type")
            let bytes = try reader.block("handle")
            guard let handle = clinux_file_handle(type: Int32(bitPattern: type), bytes) else {
                throw wrong("handle", "\(bytes.count) bytes are too many")
            }
            return handle
        }

        mutating func file() throws(VirtioDeviceError) -> (generation: UInt32, file: SavedFile?) {
            try reading { reader throws(ProtocolError) in try Self.file(&reader) }
        }

        private static func file(
            _ reader: inout WireReader
        ) throws(ProtocolError) -> (generation: UInt32, file: SavedFile?) {
            let generation: UInt32 = try reader.number("generation")
            let kind: UInt8 = try reader.number("kind")
            if kind == 0 { return (generation, nil) }
            guard generation > 0 else { throw wrong("generation", "it is 0") }
            let kinds = [CLINUX_HANDLE_FILE, CLINUX_HANDLE_FOLDER, CLINUX_HANDLE_LOCKS]
            guard let kind = kinds.first(where: { $0.rawValue + 1 == UInt32(kind) }) else {
                throw wrong("kind", "\(kind) is none")
            }
            let node: UInt64 = try reader.number("node")
            let flags: UInt32 = try reader.number("flags")
            let owner: UInt64 = try reader.number("lock owner")
            let process: UInt32 = try reader.number("process")
            let by: UInt64 = try reader.number("open file")
            var held = HeldLocks()
            let wholeFile: UInt8 = try reader.number("flock")
            guard [LOCK_SH, LOCK_EX, LOCK_UN].contains(Int32(wholeFile)) else {
                throw wrong("flock", "\(wholeFile) is none")
            }
            held.wholeFile = Int32(wholeFile)
            let count: UInt32 = try reader.number("ranges")
            guard count <= HeldLocks.limit else { throw wrong("ranges", "\(count) are too many") }
            for _ in 0..<count {
                let start: UInt64 = try reader.number("start")
                let end: UInt64 = try reader.number("end")
                let kind: UInt8 = try reader.number("kind of lock")
                guard let start = Int64(exactly: start), let end = Int64(exactly: end),
                    let kind = HeldLocks.Kind(rawValue: kind),
                    held.append(HeldLocks.Range(start: start, end: end, kind: kind))
                else { throw wrong("start", "\(start) to \(end) is no part that can be locked") }
            }
            return (
                generation,
                SavedFile(
                    nodeID: node, kind: kind,
                    flags: Int32(bitPattern: flags) & SavedFile.keptFlags,
                    lockOwner: LockOwner(id: owner, process: process, handle: by), held: held)
            )
        }

        mutating func finish() throws(VirtioDeviceError) {
            try reading { reader throws(ProtocolError) in try reader.finish() }
        }

        private static func wrong(_ field: String, _ reason: String) -> ProtocolError {
            ProtocolError("shared folder's state", field, reason)
        }
    }
}

extension clinux_file_handle {
    var contents: [UInt8] {
        unsafe withUnsafeBytes(of: bytes) { unsafe Array($0.prefix(Int(min(size, 128)))) }
    }

    /// - Returns: `nil` if there is no room for the bytes.
    init?(type: Int32, _ contents: [UInt8]) {
        guard contents.count <= Int(CLINUX_HANDLE_SIZE) else { return nil }
        self.init()
        self.type = type
        size = UInt32(contents.count)
        unsafe withUnsafeMutableBytes(of: &bytes) { unsafe $0.copyBytes(from: contents) }
    }
}
