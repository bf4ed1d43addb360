internal import CLinux
internal import Glibc

// What makes, changes and removes names.
extension FSWorker {
    func readLink() throws(FUSEError) {
        let node = try node()
        guard node.isLink else { throw .invalid }
        try unsafe reply.fill(FUSELimit.path) { room throws(FUSEError) in
            Int(try fuseChecking(unsafe clinux_read_link(node.fd, room, FUSELimit.path)))
        }
    }

    func makeSymlink() throws(FUSEError) {
        try needRoom(FUSELimit.entry)
        let folder = try folder()
        let name = try request.name()
        let target = try request.freeText(FUSELimit.path)
        try make(folder, name, S_IFLNK, mask: 0) {
            unsafe clinux_make_symlink(target.pointer, folder.fd, name.pointer)
        }
    }

    func makeNode() throws(FUSEError) {
        try needRoom(FUSELimit.entry)
        let folder = try folder()
        let mode = try request.next(UInt32.self)
        let (major, minor) = FUSEReply.majorAndMinor(try request.next(UInt32.self))
        let mask = try request.next(UInt32.self)
        try request.skip(4)
        let name = try request.name()
        // Without a type it is a regular file (mknod(2)).
        let type = mode & S_IFMT == 0 ? S_IFREG : mode & S_IFMT
        try make(folder, name, type, mask: mask) {
            unsafe clinux_make_node(folder.fd, name.pointer, mode, major, minor)
        }
    }

    func makeFolder() throws(FUSEError) {
        try needRoom(FUSELimit.entry)
        let folder = try folder()
        let mode = try request.next(UInt32.self)
        let mask = try request.next(UInt32.self)
        let name = try request.name()
        try make(folder, name, S_IFDIR, mask: mask) {
            unsafe clinux_make_folder(folder.fd, name.pointer, mode & 0o7777)
        }
    }

    /// Makes something of a type, and answers with it.
    private func make(
        _ folder: Node, _ name: FUSEText, _ type: UInt32, mask: UInt32, _ body: () -> Int32
    ) throws(FUSEError) {
        let labels = try labels()
        try asUser(in: folder, mask: mask) { () throws(FUSEError) in
            try fuseChecking(
                task.change { [self] time, _ in
                    wasMade(folder, name, type, since: time) ? 0 : nil
                } _: {
                    expecting(name) { Int64(body()) }
                })
        }
        try setLabels(labels, folder, name, type)
        try putEntry(folder, name)
    }

    /// Whether a name stands for something of a type that was made at a time or later.
    func wasMade(
        _ folder: Node, _ name: FUSEText, _ type: UInt32, since time: TaskNote.Time
    ) -> Bool {
        guard let status = status(folder, name) else { return false }
        return status.type == type && status.isMade(since: time)
    }

    /// What a name stands for, if there is anything.
    private func status(_ folder: Node, _ name: FUSEText) -> clinux_file_status? {
        try? FileStatus.of(folder.fd, name)
    }

    func unlink() throws(FUSEError) { try remove(isFolder: false) }

    func removeFolder() throws(FUSEError) { try remove(isFolder: true) }

    private func remove(isFolder: Bool) throws(FUSEError) {
        let folder = try folder()
        let name = try request.name()
        let old = fileSystem.nodes.keepOpen(folder, name)
        defer { fileSystem.nodes.stayOpen(old) }
        try fuseChecking(
            task.change { [self] _, _ in
                status(folder, name) == nil ? 0 : nil
            } _: {
                expecting(name) {
                    Int64(unsafe clinux_remove(folder.fd, name.pointer, isFolder ? 1 : 0))
                }
            })
    }

    /// RENAME and RENAME2
    func rename(hasFlags: Bool) throws(FUSEError) {
        let folder = try folder()
        let newID = try request.next(UInt64.self)
        let newFolder = try self.folder(newID)
        var flags: UInt32 = 0
        if hasFlags {
            flags = try request.next(UInt32.self)
            try request.skip(4)
        }
        // RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT
        guard flags & ~7 == 0 else { throw .invalid }
        let name = try request.name()
        let newName = try request.name()
        let old = fileSystem.nodes.keepOpen(folder, name)
        let replaced = fileSystem.nodes.keepOpen(newFolder, newName)
        defer {
            fileSystem.nodes.stayOpen(old)
            fileSystem.nodes.stayOpen(replaced)
        }
        // With the last two, something has the old name afterwards as well.
        let needsInode = flags & 6 != 0
        try fuseChecking(
            task.change { () throws(FUSEError) in
                needsInode ? try FileStatus.of(folder.fd, name).inode : 0
            } wasMade: { [self] _, inode in
                guard let new = status(newFolder, newName) else { return nil }
                return (needsInode ? new.inode == inode : status(folder, name) == nil) ? 0 : nil
            } _: {
                // Of two names for one file nothing changes (rename(2)).
                let changes = flags & 2 != 0 || !isSame(folder, name, newFolder, newName)
                return expecting(
                    name, and: (newID, newName), twice: flags & 2 != 0, unless: !changes
                ) {
                    Int64(
                        unsafe clinux_rename(
                            folder.fd, name.pointer, newFolder.fd, newName.pointer, flags))
                }
            })
    }

    /// Whether two names stand for one file, if somebody wants to know what changes.
    private func isSame(
        _ folder: Node, _ name: FUSEText, _ other: Node, _ otherName: FUSEText
    ) -> Bool {
        guard fileSystem.watch?.isActive == true, let file = status(folder, name),
            let otherFile = status(other, otherName)
        else { return false }
        return Node.Key(file) == Node.Key(otherFile)
    }

    /// LINK: the request is about the folder of the new name.
    func link() throws(FUSEError) {
        try needRoom(FUSELimit.entry)
        let folder = try folder()
        let file = try fileSystem.nodes.node(try request.next(UInt64.self))
        let name = try request.name()
        try fuseChecking(
            task.change { [self] time, _ in
                guard let status = status(folder, name), status.isChanged(since: time),
                    Node.Key(status) == file.key
                else { return nil }
                return 0
            } _: {
                expecting(name) {
                    Int64(unsafe clinux_link(file.fd, folder.fd, name.pointer))
                }
            })
        try putEntry(folder, name)
    }

    /// Changes what a name in the request's folder stands for, perhaps with another one.
    /// - Parameter body: returns -errno if it fails.
    func expecting(
        _ name: FUSEText, and other: (folder: UInt64, name: FUSEText)? = nil, twice: Bool = false,
        unless isNothing: Bool = false, _ body: () -> Int64
    ) -> Int64 {
        guard let watch = fileSystem.watch, !isNothing else { return body() }
        let names = [(request.nodeID, name)] + (other.map { [($0.folder, $0.name)] } ?? [])
        let all = twice ? names + names : names
        for (folder, name) in all { watch.expect(folder, name) }
        let result = body()
        if result < 0 { for (folder, name) in all { watch.unexpect(folder, name) } }
        return result
    }
}
