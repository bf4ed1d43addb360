internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

extension FolderState {
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
            let parts = NodeParts(rawValue: try reader.number("parts"))
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

        /// - Parameters:
        ///   - end: where the one before it ends.
        ///   - window: the size of the window.
        mutating func mapping(
            after end: UInt64, in window: UInt64
        ) throws(VirtioDeviceError) -> MappingTable.Mapping {
            try reading { reader throws(ProtocolError) in
                let start: UInt64 = try reader.number("mapping's start")
                let size: UInt64 = try reader.number("mapping's size")
                let fileOffset: UInt64 = try reader.number("mapping's offset")
                let node: UInt64 = try reader.number("mapping's node")
                let writes: UInt8 = try reader.number("mapping's kind")
                guard writes <= 1 else { throw Self.wrong("mapping's kind", "\(writes) is none") }
                let mapping = MappingTable.Mapping(
                    start: start, size: size, fileOffset: fileOffset, node: node,
                    isWritable: writes == 1)
                guard start >= end, MappingTable.allows(mapping, in: window) else {
                    throw Self.wrong(
                        "mapping's start",
                        "0x\(String(size, radix: 16)) bytes at 0x\(String(start, radix: 16)) are no"
                            + " part of the window that is free")
                }
                return mapping
            }
        }

        mutating func finish() throws(VirtioDeviceError) {
            try reading { reader throws(ProtocolError) in try reader.finish() }
        }

        private static func wrong(_ field: String, _ reason: String) -> ProtocolError {
            ProtocolError("shared folder's state", field, reason)
        }
    }
}
