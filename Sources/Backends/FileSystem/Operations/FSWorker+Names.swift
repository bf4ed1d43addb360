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
        try asUser { () throws(FUSEError) in
            try fuseChecking(unsafe clinux_make_symlink(target.pointer, folder.fd, name.pointer))
        }
        try putEntry(folder, name)
    }

    func makeNode() throws(FUSEError) {
        try needRoom(FUSELimit.entry)
        let folder = try folder()
        let mode = try request.next(UInt32.self)
        let (major, minor) = FUSEReply.majorAndMinor(try request.next(UInt32.self))
        try request.skip(8)  // umask, padding
        let name = try request.name()
        try asUser { () throws(FUSEError) in
            try fuseChecking(unsafe clinux_make_node(folder.fd, name.pointer, mode, major, minor))
        }
        try putEntry(folder, name)
    }

    func makeFolder() throws(FUSEError) {
        try needRoom(FUSELimit.entry)
        let folder = try folder()
        let mode = try request.next(UInt32.self)
        try request.skip(4)  // umask
        let name = try request.name()
        try asUser { () throws(FUSEError) in
            try fuseChecking(unsafe clinux_make_folder(folder.fd, name.pointer, mode & 0o7777))
        }
        try putEntry(folder, name)
    }

    func unlink() throws(FUSEError) {
        try fuseChecking(unsafe clinux_remove(folder().fd, request.name().pointer, 0))
    }

    func removeFolder() throws(FUSEError) {
        try fuseChecking(unsafe clinux_remove(folder().fd, request.name().pointer, 1))
    }

    /// RENAME and RENAME2
    func rename(hasFlags: Bool) throws(FUSEError) {
        let folder = try folder()
        let newFolder = try self.folder(try request.next(UInt64.self))
        var flags: UInt32 = 0
        if hasFlags {
            flags = try request.next(UInt32.self)
            try request.skip(4)
        }
        // RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT
        guard flags & ~7 == 0 else { throw .invalid }
        let name = try request.name()
        let newName = try request.name()
        try fuseChecking(
            unsafe clinux_rename(
                folder.fd, name.pointer, newFolder.fd, newName.pointer, flags))
    }

    /// LINK: the request is about the folder of the new name.
    func link() throws(FUSEError) {
        try needRoom(FUSELimit.entry)
        let folder = try folder()
        let file = try fileSystem.nodes.node(try request.next(UInt64.self))
        let name = try request.name()
        try fuseChecking(unsafe clinux_link(file.fd, folder.fd, name.pointer))
        try putEntry(folder, name)
    }
}
