internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

// What a driver knows and has open of a shared folder, as it goes to a process that shares the same
// folder later (`VirtioDevice.saveState`). Descriptors cannot go with it, so it says how each file is
// found again. Slots of tables are in their order, also those in which there is nothing, because
// numbers are never used again.
//
//     version u16 = 2; of the folder itself: inode u64
//     abilities u64
//     number of nodes' slots u32, and each: generation u32, NodeParts u8, and if it is used
//         look-ups u64, parent u64, type u8 (bits 15-12 of the mode), inode u64,
//         [device u64], time at which it was made i64, nanoseconds u32, [text], [handle: type, bytes]
//     number of open files' slots u32, and each: generation u32, kind u8 (0: none), and if it is used
//         node u64, flags u32 (O_ACCMODE: it was stale before), lock owner u64, process u32, by u64, flock u8,
//         number of ranges u32, and each: start u64, end u64, kind u8
//     number of mappings in the window u32, and each, in the order of their places:
//         start u64, size u64, offset in the file u64, node u64, may be written to u8
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
    /// Whether all of its names are removed, as far as this process knows.
    var isRemoved = false
}

/// An open file that another process had.
struct SavedFile {
    var nodeID: UInt64
    var kind: clinux_handle_kind
    /// Of open(2): how it is accessed, O_APPEND, O_DSYNC and O_SYNC.
    var flags: Int32
    var lockOwner: LockOwner
    var held: HeldLocks

    /// It was stale before.
    static let lost = O_ACCMODE
    var isLost: Bool { flags & O_ACCMODE == Self.lost }

    static let keptFlags = O_ACCMODE | O_APPEND | O_DSYNC | O_SYNC
}

/// What follows in a node's slot.
struct NodeParts: OptionSet {
    let rawValue: UInt8

    static let used = NodeParts(rawValue: 1 << 0)
    static let device = NodeParts(rawValue: 1 << 1)
    static let otherMount = NodeParts(rawValue: 1 << 2)
    static let name = NodeParts(rawValue: 1 << 3)
    static let path = NodeParts(rawValue: 1 << 4)
    static let handle = NodeParts(rawValue: 1 << 5)
    static let all = NodeParts(rawValue: 0x3f)

    init(rawValue: UInt8) { self.rawValue = rawValue }

    init(_ node: SavedNode) {
        var parts: NodeParts = .used
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
    static let version: UInt16 = 2
    /// The most bytes.
    static let sizeLimit = DeviceStateImage.maximumContents

    struct Writer {
        private var out = WireWriter()
        private let limit: Int

        var bytes: [UInt8] { out.bytes }

        init(rootInode: UInt64, abilities: UInt64, limit: Int = FolderState.sizeLimit) {
            self.limit = limit
            out.append(FolderState.version)
            out.append(rootInode)
            out.append(abilities)
        }

        /// Called after each part, so that nothing grows that cannot be passed on.
        func checkSize() throws(VirtioDeviceError) {
            guard out.bytes.count <= limit else {
                throw VirtioDeviceError(
                    "what the guest knows and has open takes more than \(limit) bytes, and no other"
                        + " program takes over; close files or unmount the folder")
            }
        }

        mutating func putCount(_ count: Int) { out.append(UInt32(clamping: count)) }

        mutating func put(_ node: SavedNode?, generation: UInt32) {
            out.append(generation)
            guard let node else { return out.append(0 as UInt8) }
            out.append(NodeParts(node).rawValue)
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

        mutating func put(_ mapping: MappingTable.Mapping) {
            out.append(mapping.start)
            out.append(mapping.size)
            out.append(mapping.fileOffset)
            out.append(mapping.node)
            out.append(mapping.isWritable ? 1 : 0 as UInt8)
        }

        private mutating func put(_ block: [UInt8]) {
            putCount(block.count)
            out.append(block)
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
