internal import CLinux
internal import Core
internal import Glibc

// Opening, creating and closing files.
extension FSWorker {
    /// Those flags of an open file that have a meaning here. The driver does the rest.
    private func hostFlags(_ flags: UInt32) -> Int32 {
        let flags = Int32(bitPattern: flags)
        guard fileSystem.has(.writebackCache) else {
            return flags & (O_ACCMODE | O_APPEND | O_DSYNC | O_SYNC)
        }
        // The driver knows where the end is, and may have to read what is around a write.
        let access = flags & O_ACCMODE == O_WRONLY ? O_RDWR : flags & O_ACCMODE
        return access | flags & (O_DSYNC | O_SYNC)
    }

    private static func changes(_ flags: UInt32) -> Bool {
        Int32(bitPattern: flags) & (O_ACCMODE | O_TRUNC) != O_RDONLY
    }

    func open() throws(FUSEError) {
        try needRoom(16)
        let flags = try request.next(UInt32.self)
        let openFlags = try request.next(UInt32.self)
        if fileSystem.options.isReadOnly, Self.changes(flags) { throw .readOnly }
        let node = try node()
        settleUser(at: node)
        let dropsSetID = openFlags & FUSEDropSetID.opening != 0
        if !dropsSetID, Int32(bitPattern: flags) & O_TRUNC != 0 { user.becomeRoot() }
        let fd: OwnedFD = try droppingSetID(dropsSetID) { () throws(FUSEError) in
            try reopen(node, flags)
        }
        try putHandle(fd, node, id: request.nodeID, flags)
    }

    /// Opens a regular file. Other files are opened by nobody on the host.
    private func reopen(_ node: Node, _ flags: UInt32) throws(FUSEError) -> OwnedFD {
        guard node.isRegular else { throw FUSEError(node.isLink ? ELOOP : ENXIO) }
        let truncates = Int32(bitPattern: flags) & O_TRUNC
        let wanted = hostFlags(flags) | truncates
        var result = clinux_reopen(node.fd, wanted)
        if result == -EACCES, Int32(bitPattern: flags) & O_ACCMODE == O_WRONLY {
            // It may be written, but not read.
            result = clinux_reopen(node.fd, wanted & ~O_ACCMODE | O_WRONLY)
        }
        return OwnedFD(owning: try fuseChecking(result))
    }

    /// Answers with the number of an open file (`fuse_open_out`).
    private func putHandle(
        _ fd: consuming OwnedFD, _ node: Node, id: UInt64, _ flags: UInt32
    ) throws(FUSEError) {
        let file = OpenFile(
            fd, nodeID: id, CLINUX_HANDLE_FILE, appends: hostFlags(flags) & O_APPEND != 0,
            isLocal: node.key.device == fileSystem.localDevice)
        let handle = try fileSystem.handles.add(file)
        task.opened(handle)
        reply.put(handle)
        var openFlags: UInt32 =
            switch fileSystem.options.cache {
            case .never, .metadata: FUSEOpenFlag.directIO
            case .auto: 0
            case .always: FUSEOpenFlag.keepCache
            }
        // With a flush a driver says that a user's locks are gone.
        if !Self.changes(flags), !fileSystem.options.hasPosixLocks {
            openFlags |= FUSEOpenFlag.noFlush
        }
        reply.put(openFlags)
        reply.put(0 as UInt32)
    }

    /// CREATE: makes a file, or takes the one that is there, and opens it.
    func create() throws(FUSEError) {
        try needRoom(FUSELimit.entry + 16)
        let folder = try folder()
        let flags = try request.next(UInt32.self)
        let mode = try request.next(UInt32.self)
        let mask = try request.next(UInt32.self)
        try request.skip(4)  // open_flags: what is new has no set-ID bits to lose
        let name = try request.name()
        let labels = try labels()
        var lacksLabels = labels != nil
        let wanted = hostFlags(flags) | O_CREAT | O_EXCL
        var fd: Int32 = -1
        let result = try asUser(in: folder, mask: mask) { () throws(FUSEError) in
            try task.change { [self] time, _ in
                wasMade(folder, name, S_IFREG, since: time) ? 0 : nil
            } _: {
                expecting(name) {
                    if let labels, let new = makeLabelled(labels, folder, name, wanted, mode) {
                        lacksLabels = false
                        fd = new
                    } else {
                        fd = unsafe clinux_open_name(folder.fd, name.pointer, wanted, mode)
                    }
                    return Int64(min(fd, 0))
                }
            }
        }
        // As well if an earlier process has made the file.
        if result == 0, lacksLabels {
            do throws(FUSEError) {
                try setLabels(labels, folder, name, S_IFREG, made: fd >= 0 ? fd : nil)
            } catch {
                if fd >= 0 { close(fd) }
                throw error
            }
        }
        if fd >= 0 {
            return try putCreated(OwnedFD(owning: fd), flags, at: (folder, name))
        }
        let isThere = result == -Int64(EEXIST) && Int32(bitPattern: flags) & O_EXCL == 0
        guard isThere || result == 0 else { throw FUSEError(Int32(-result)) }
        try putExisting(folder, name, flags, isOurs: result == 0)
    }

    /// Opens a file that is there.
    /// - Parameter isOurs: an earlier process has made it for this request, which has the right to
    ///   open it, whatever its mode says.
    private func putExisting(
        _ folder: Node, _ name: FUSEText, _ flags: UInt32, isOurs: Bool
    ) throws(FUSEError) {
        user.becomeRoot()
        let (id, status) = try find(folder, name)
        do throws(FUSEError) {
            let node = try fileSystem.nodes.node(id)
            let isOpen = isOurs && status.mode & 0o600 != 0o600
            if isOpen {
                try fuseChecking(clinux_change_mode(node.fd, status.mode & 0o7777 | 0o600))
            }
            defer {
                if isOpen { _ = clinux_change_mode(node.fd, status.mode & 0o7777) }
            }
            let fd = try reopen(node, flags)
            reply.putEntry(id, status, fileSystem.validity)
            try putHandle(fd, node, id: id, flags)
        } catch {
            fileSystem.nodes.forget(id, 1)
            throw error
        }
        task.counted(id)
    }

    /// TMPFILE: makes a file without a name.
    func createTemporary() throws(FUSEError) {
        try needRoom(FUSELimit.entry + 16)
        let folder = try folder()
        let flags = try request.next(UInt32.self)
        let mode = try request.next(UInt32.self)
        let mask = try request.next(UInt32.self)
        guard Int32(bitPattern: flags) & O_ACCMODE != O_RDONLY else { throw .invalid }
        let labels = try temporaryLabels()
        // Whether the file may get a name later.
        let wanted = hostFlags(flags) | CLINUX_O_TMPFILE | Int32(bitPattern: flags) & O_EXCL
        let result = try asUser(in: folder, mask: mask) { () throws(FUSEError) in
            unsafe clinux_open_beneath(folder.fd, ".", wanted, mode)
        }
        let fd = OwnedFD(owning: try fuseChecking(result))
        if let labels { try setLabels(labels, fd.rawValue) }
        try putCreated(fd, flags, at: nil)
    }

    /// The labels of a file without a name: they are behind one that says nothing.
    private func temporaryLabels() throws(FUSEError) -> Labels? {
        guard fileSystem.has(.securityLabels) else { return nil }
        try request.skip(4)  // open_flags
        _ = try request.freeText(FUSELimit.name)
        return try labels()
    }

    /// Opens a new file only to name it. Its name leads there sooner than the way through /proc, unless
    /// somebody else has been there meanwhile.
    private func openPath(
        _ fd: Int32, _ place: (folder: Node, name: FUSEText)?
    ) throws(FUSEError) -> (fd: Int32, status: clinux_file_status) {
        if let place {
            let named = unsafe clinux_open_name(
                place.folder.fd, place.name.pointer, CLINUX_O_PATH | O_NOFOLLOW, 0)
            if named >= 0 {
                if let status = try? FileStatus.of(named),
                    clinux_is_file(fd, status.inode, status.major, status.minor) != 0
                {
                    return (named, status)
                }
                close(named)
            }
        }
        let path = OwnedFD(owning: try fuseChecking(clinux_reopen(fd, CLINUX_O_PATH)))
        let status = try FileStatus.of(path.rawValue)
        return (path.release(), status)
    }

    private func putCreated(
        _ fd: consuming OwnedFD, _ flags: UInt32, at place: (folder: Node, name: FUSEText)?
    ) throws(FUSEError) {
        let (path, status) = try openPath(fd.rawValue, place)
        let node = Node(OwnedFD(owning: path), status)
        let id = try fileSystem.nodes.add(node, status, in: request.nodeID)
        reply.putEntry(id, status, fileSystem.validity)
        do throws(FUSEError) {
            try putHandle(fd, node, id: id, flags)
        } catch {
            fileSystem.nodes.forget(id, 1)
            throw error
        }
        task.counted(id)
    }

    /// RELEASE and RELEASEDIR
    func release() throws(FUSEError) {
        let handle = try request.next(UInt64.self)
        fileSystem.handles.release(handle)
        guard fileSystem.options.hasLocks else { return }
        _ = fileSystem.locks.release(request.nodeID, handle: handle)
        fileSystem.waits.retry()
    }

    func flush() throws(FUSEError) {
        let file = try file()
        try request.skip(8)  // unused, padding
        releaseLocks(of: try request.next(UInt64.self))
        // The host's own file systems have nothing to do then.
        if !file.isLocal { try fuseChecking(clinux_flush(file.fd)) }
    }

    /// The open file whose number comes next.
    func file() throws(FUSEError) -> OpenFile {
        try fileSystem.handles.file(try request.next(UInt64.self), of: request.nodeID)
    }
}
