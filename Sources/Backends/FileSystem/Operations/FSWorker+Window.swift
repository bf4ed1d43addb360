internal import CLinux
internal import Core
internal import Glibc

// The window: pieces of files that the guest's processors reach without a request (VIRTIO 1.3,
// section 5.11.6.4; <linux/fuse.h>, "fuse_setupmapping_in").
extension FSWorker {
    private enum MappingFlag {
        static let write: UInt64 = 1 << 0  // FUSE_SETUPMAPPING_FLAG_WRITE
        static let read: UInt64 = 1 << 1  // FUSE_SETUPMAPPING_FLAG_READ
    }

    private func mappings() throws(FUSEError) -> MappingTable {
        guard let mappings = fileSystem.mappings, fileSystem.has(.mapAlignment) else {
            throw .unknownRequest
        }
        return mappings
    }

    /// SETUPMAPPING. Linux's driver does not say by which open file.
    func setUpMapping() throws(FUSEError) {
        let mappings = try mappings()
        let handle = try request.next(UInt64.self)
        let fileOffset = try request.next(UInt64.self)
        let size = try request.next(UInt64.self)
        let flags = try request.next(UInt64.self)
        let start = try request.next(UInt64.self)
        guard flags != 0, flags & ~(MappingFlag.read | MappingFlag.write) == 0 else {
            throw .invalid
        }
        let isWritable = flags & MappingFlag.write != 0
        if isWritable, fileSystem.options.isReadOnly { throw .readOnly }
        let node = try node()
        settleUser(at: node)
        if handle != UInt64.max { try checkHandle(handle, isWritable) }
        let fd = try Self.open(node, isWritable)
        if isWritable { fileSystem.watch?.change(request.nodeID) }
        try mappings.add(
            MappingTable.Mapping(
                start: start, size: size, fileOffset: fileOffset, node: request.nodeID,
                isWritable: isWritable), fd, openForMapping)
    }

    /// An open file that the driver names must be the node's, and open for what it wants.
    private func checkHandle(_ handle: UInt64, _ isWritable: Bool) throws(FUSEError) {
        let file = try fileSystem.handles.file(handle, of: request.nodeID)
        let access = try fuseChecking(clinux_fcntl(file.fd, F_GETFL, 0)) & O_ACCMODE
        guard access == O_RDWR || access == O_RDONLY && !isWritable else { throw FUSEError(EACCES) }
    }

    private static func open(_ node: Node, _ isWritable: Bool) throws(FUSEError) -> SharedFD {
        guard node.isRegular else { throw FUSEError(node.isLink ? ELOOP : ENXIO) }
        return SharedFD(
            owning: try fuseChecking(clinux_reopen(node.fd, isWritable ? O_RDWR : O_RDONLY)))
    }

    private func openForMapping(_ id: UInt64, _ isWritable: Bool) -> SharedFD? {
        // What an earlier process has shared to be changed, this one may share for reading only.
        if isWritable, fileSystem.options.isReadOnly { return nil }
        guard let node = try? fileSystem.nodes.node(id) else { return nil }
        settleUser(at: node)
        return try? Self.open(node, isWritable)
    }

    /// FUSE_REMOVEMAPPING_MAX_ENTRY, where a page has 4 KiB
    private static let removalLimit: UInt64 = 256

    /// REMOVEMAPPING: straight from the chain, because there may be many. Each may have to wait for
    /// the front end, so a queue that is to stop does not wait for all; to remove what is removed
    /// already does no harm.
    func removeMappings() throws(FUSEError) -> Outcome {
        let mappings = try mappings()
        let count = UInt64(try request.next(UInt32.self))
        var offset = UInt64(FUSELimit.requestHeader + 4)
        let room = chain.readableLength
        guard room >= offset, count > 0, count <= Self.removalLimit, count <= (room - offset) / 16
        else { throw .invalid }
        for _ in 0..<count {
            if stop?.isOn == true { return .later }
            guard let start = chain.read(at: offset, as: UInt64.self),
                let size = chain.read(at: offset + 8, as: UInt64.self)
            else { throw .invalid }
            try mappings.remove(start, size, openForMapping)
            offset += 16
        }
        return .reply
    }

    /// Shows another front end what the driver has mapped; it does not do that again.
    func restoreMappings() { fileSystem.mappings?.restore(openForMapping, until: stop) }
}
