internal import CLinux
internal import Core
internal import Glibc
internal import Synchronization

// Reading folders.
extension FSWorker {
    func openFolder() throws(FUSEError) {
        try needRoom(16)
        let folder = try folder()
        settleUser(at: folder)
        let fd = OwnedFD(
            owning: try fuseChecking(
                unsafe clinux_open_beneath(folder.fd, ".", O_RDONLY | O_DIRECTORY, 0)))
        let file = OpenFile(fd, nodeID: request.nodeID, CLINUX_HANDLE_FOLDER)
        let handle = try fileSystem.handles.add(file)
        task.opened(handle)
        reply.put(handle)
        let caches = fileSystem.options.cache == .always
        reply.put(caches ? FUSEOpenFlag.cacheFolder | FUSEOpenFlag.keepCache : 0)
        reply.put(0 as UInt32)
    }

    private func openedFolder() throws(FUSEError) -> OpenFile {
        try fileSystem.handles.folder(try request.next(UInt64.self), of: request.nodeID)
    }

    func syncFolder() throws(FUSEError) {
        let file = try openedFolder()
        try fuseChecking(clinux_sync(file.fd, Int32(try request.next(UInt32.self) & 1)))
    }

    /// READDIR, and READDIRPLUS, which looks up each entry as well.
    func readFolder(withEntries: Bool) throws(FUSEError) {
        let file = try openedFolder()
        let folder = try folder()
        settleUser(at: folder)
        let offset = try request.next(UInt64.self)
        let size = Int(try request.next(UInt32.self))
        let room = Int(clamping: chain.writableLength) - FUSELimit.replyHeader
        let limit = min(size, room, FUSEReply.limit)
        guard limit >= 0, let position = Int64(exactly: offset) else { throw .invalid }
        // An entry takes less room on the host than in the reply.
        let wanted = withEntries ? max(limit / 5, 1024) : limit
        // SAFETY: the entries lie in the buffer as long as `put` looks at them.
        let capacity = min(wanted, listing.size)
        let count = try file.position.withLock { place throws(FUSEError) in
            if place != offset { try fuseChecking(clinux_seek(file.fd, position, SEEK_SET)) }
            place = .max
            return try fuseChecking(unsafe clinux_read_folder(file.fd, listing.bytes, capacity))
        }
        let last = try put(
            unsafe FolderListing.Entries(listing.bytes, count), of: folder, limit: limit,
            withEntries: withEntries)
        // What did not fit is read again.
        if let last { file.position.withLock { $0 = last } }
    }

    /// - Returns: where the folder goes on, if that is where its descriptor stands.
    private func put(
        _ entries: FolderListing.Entries, of folder: Node, limit: Int, withEntries: Bool
    ) throws(FUSEError) -> UInt64? {
        var entries = entries
        var last: UInt64?
        while let entry = entries.next() {
            let padding = -entry.nameLength & 7
            let size = 24 + entry.nameLength + padding + (withEntries ? FUSELimit.entry : 0)
            guard size <= limit - reply.size else {
                // Not even the first fits.
                if reply.size == 0 { throw .invalid }
                return nil
            }
            if withEntries { putFound(folder, entry) }
            // Nothing outside is told of.
            let isOutside = entry.isParent && folder === fileSystem.nodes.root
            reply.put(isOutside ? folder.key.inode : entry.inode)
            reply.put(entry.next)
            reply.put(UInt32(entry.nameLength))
            reply.put(UInt32(entry.type))
            unsafe reply.put(entry.name, entry.nameLength)
            reply.putZeroes(padding)
            last = entry.next
        }
        return last
    }

    /// The part of an entry that makes a look-up superfluous; empty if there is nothing to be found
    /// any more.
    private func putFound(_ folder: Node, _ entry: FolderListing.Entry) {
        guard !entry.isSpecial, let (id, status) = try? find(folder, entry.nameText) else {
            return reply.putZeroes(FUSELimit.entry)
        }
        reply.putEntry(
            id, status, fileSystem.validity, below: fileSystem.has(.submounts) ? folder : nil)
    }
}
