internal import CLinux
internal import Core
internal import Glibc

// Opening, creating and closing files.
extension FSWorker {
    /// Those flags of an open file that have a meaning here. The driver does the rest.
    private func hostFlags(_ flags: UInt32) -> Int32 {
        let kept = O_ACCMODE | O_APPEND | O_DSYNC | O_SYNC
        return Int32(bitPattern: flags) & kept
    }

    private static func changes(_ flags: UInt32) -> Bool {
        Int32(bitPattern: flags) & (O_ACCMODE | O_TRUNC) != O_RDONLY
    }

    func open() throws(FUSEError) {
        try needRoom(16)
        let flags = try request.next(UInt32.self)
        if fileSystem.options.isReadOnly, Self.changes(flags) { throw .readOnly }
        let fd = try reopen(try node(), flags)
        putHandle(fd, nodeID: request.nodeID, flags)
    }

    /// Opens a regular file. Other files are opened by nobody on the host.
    private func reopen(_ node: Node, _ flags: UInt32) throws(FUSEError) -> OwnedFD {
        guard node.isRegular else { throw FUSEError(node.isLink ? ELOOP : ENXIO) }
        let truncates = Int32(bitPattern: flags) & O_TRUNC
        return OwnedFD(
            owning: try fuseChecking(clinux_reopen(node.fd, hostFlags(flags) | truncates)))
    }

    /// Answers with the number of an open file (`fuse_open_out`).
    private func putHandle(_ fd: consuming OwnedFD, nodeID: UInt64, _ flags: UInt32) {
        let file = OpenFile(fd, nodeID: nodeID, isFolder: false)
        reply.put(fileSystem.handles.add(file))
        var openFlags: UInt32 =
            switch fileSystem.options.cache {
            case .never, .metadata: FUSEOpenFlag.directIO
            case .auto: 0
            case .always: FUSEOpenFlag.keepCache
            }
        if !Self.changes(flags) { openFlags |= FUSEOpenFlag.noFlush }
        reply.put(openFlags)
        reply.put(0 as UInt32)
    }

    /// CREATE: makes a file, or takes the one that is there, and opens it.
    func create() throws(FUSEError) {
        try needRoom(FUSELimit.entry + 16)
        let folder = try folder()
        let flags = try request.next(UInt32.self)
        let mode = try request.next(UInt32.self)
        try request.skip(8)  // umask, open_flags
        let name = try request.name()
        let wanted = hostFlags(flags) | O_CREAT | O_EXCL
        let result = try asUser { () throws(FUSEError) in
            unsafe clinux_open_beneath(folder.fd, name.pointer, wanted, mode)
        }
        if result == -EEXIST, Int32(bitPattern: flags) & O_EXCL == 0 {
            let (id, status) = try find(folder, name)
            do throws(FUSEError) {
                let fd = try reopen(try fileSystem.nodes.node(id), flags)
                reply.putEntry(id, status, fileSystem.validity)
                putHandle(fd, nodeID: id, flags)
            } catch {
                fileSystem.nodes.forget(id, 1)
                throw error
            }
            return
        }
        try putCreated(OwnedFD(owning: try fuseChecking(result)), flags)
    }

    /// TMPFILE: makes a file without a name.
    func createTemporary() throws(FUSEError) {
        try needRoom(FUSELimit.entry + 16)
        let folder = try folder()
        let flags = try request.next(UInt32.self)
        let mode = try request.next(UInt32.self)
        guard Int32(bitPattern: flags) & O_ACCMODE != O_RDONLY else { throw .invalid }
        // Whether the file may get a name later.
        let wanted = hostFlags(flags) | CLINUX_O_TMPFILE | Int32(bitPattern: flags) & O_EXCL
        let result = try asUser { () throws(FUSEError) in
            unsafe clinux_open_beneath(folder.fd, ".", wanted, mode)
        }
        try putCreated(OwnedFD(owning: try fuseChecking(result)), flags)
    }

    private func putCreated(_ fd: consuming OwnedFD, _ flags: UInt32) throws(FUSEError) {
        let node = OwnedFD(owning: try fuseChecking(clinux_reopen(fd.rawValue, CLINUX_O_PATH)))
        let status = try FileStatus.of(node.rawValue)
        let id = fileSystem.nodes.add(Node(node, status))
        reply.putEntry(id, status, fileSystem.validity)
        putHandle(fd, nodeID: id, flags)
    }

    /// RELEASE and RELEASEDIR
    func release() throws(FUSEError) {
        fileSystem.handles.remove(try request.next(UInt64.self))
    }

    func flush() throws(FUSEError) {
        try fuseChecking(clinux_flush(file().fd))
    }

    /// The open file whose number comes next.
    func file() throws(FUSEError) -> OpenFile {
        try fileSystem.handles.file(try request.next(UInt64.self), of: request.nodeID)
    }
}
