internal import CLinux
internal import Core
internal import Glibc

// Looking up names, and attributes.
extension FSWorker {
    func lookUp() throws(FUSEError) {
        try needRoom(FUSELimit.entry)
        let folder = try folder()
        settleUser(at: folder)
        try putEntry(folder, request.name())
    }

    /// Answers with what a name stands for, and counts that the driver knows it.
    func putEntry(_ folder: Node, _ name: FUSEText) throws(FUSEError) {
        let (id, status) = try find(folder, name)
        task.counted(id)
        reply.putEntry(
            id, status, fileSystem.validity, below: fileSystem.has(.submounts) ? folder : nil)
    }

    /// The file that a name stands for in the request's folder; the driver knows it from now on.
    func find(
        _ folder: Node, _ name: FUSEText
    ) throws(FUSEError) -> (id: UInt64, status: clinux_file_status) {
        let parent = request.nodeID
        // Where one file after the other is new, so will be this one.
        let isLikelyNew = newFiles > 1
        if !isLikelyNew {
            let status = try FileStatus.of(folder.fd, name)
            if let id = fileSystem.nodes.lookUp(Node.Key(status), in: parent) {
                newFiles = 0
                return (id, status)
            }
        }
        let fd = OwnedFD(
            owning: try fuseChecking(
                unsafe clinux_open_name(folder.fd, name.pointer, CLINUX_O_PATH | O_NOFOLLOW, 0)))
        // The name may stand for another file by now.
        let opened = try FileStatus.of(fd.rawValue)
        if isLikelyNew, let id = fileSystem.nodes.lookUp(Node.Key(opened), in: parent) {
            newFiles = 0
            return (id, opened)
        }
        newFiles = min(newFiles + 1, 2)
        return (try fileSystem.nodes.add(Node(fd, opened), opened, in: parent), opened)
    }

    func getAttributes() throws(FUSEError) {
        reply.putAttributes(try node().status(), fileSystem.validity)
    }

    func getExtendedStatus() throws(FUSEError) {
        reply.putExtended(try node().status(), fileSystem.validity)
    }

    /// SETATTR: several changes at once, in the order in which Linux's own file systems do them.
    func setAttributes() throws(FUSEError) {
        let node = try node()
        let changes = FUSEChanges(rawValue: try request.next(UInt32.self))
        try request.skip(4)
        let handle = try request.next(UInt64.self)
        let size = try request.next(UInt64.self)
        try request.skip(8)  // lock_owner
        let accessTime = Int64(bitPattern: try request.next(UInt64.self))
        let modificationTime = Int64(bitPattern: try request.next(UInt64.self))
        try request.skip(8)  // ctime
        let accessPart = try request.next(UInt32.self)
        let modificationPart = try request.next(UInt32.self)
        try request.skip(4)  // ctimensec
        let mode = try request.next(UInt32.self)
        try request.skip(4)
        let user = try request.next(UInt32.self)
        let group = try request.next(UInt32.self)
        if changes.contains(.mode) {
            guard !node.isLink else { throw FUSEError(EOPNOTSUPP) }
            try fuseChecking(clinux_change_mode(node.fd, mode & 0o7777))
        }
        if !changes.isDisjoint(with: [.user, .group]) {
            let ids = fileSystem.options
            try fuseChecking(
                clinux_change_owner(
                    node.fd, changes.contains(.user) ? ids.users.host(user) : .max,
                    changes.contains(.group) ? ids.groups.host(group) : .max))
        }
        if changes.contains(.size) {
            try droppingSetID(changes.contains(.dropSetID)) { () throws(FUSEError) in
                try truncate(node, to: size, handle: changes.contains(.handle) ? handle : nil)
            }
        }
        if !changes.isDisjoint(with: [.accessTime, .modificationTime]) {
            let access = Self.nanoseconds(
                changes, .accessTime, now: .accessTimeNow, accessPart)
            let modification = Self.nanoseconds(
                changes, .modificationTime, now: .modificationTimeNow, modificationPart)
            try fuseChecking(
                clinux_change_times(
                    node.fd, accessTime, access, modificationTime, modification))
        }
        reply.putAttributes(try node.status(), fileSystem.validity)
    }

    private func truncate(_ node: Node, to size: UInt64, handle: UInt64?) throws(FUSEError) {
        guard let size = Int64(exactly: size) else { throw FUSEError(EFBIG) }
        guard node.isRegular else { throw .invalid }
        if let handle {
            let file = try fileSystem.handles.file(handle, of: request.nodeID)
            try fuseChecking(clinux_truncate(file.fd, size))
        } else {
            try fuseChecking(clinux_truncate_path(node.fd, size))
        }
    }

    private static func nanoseconds(
        _ changes: FUSEChanges, _ time: FUSEChanges, now: FUSEChanges, _ part: UInt32
    ) -> Int64 {
        guard changes.contains(time) else { return CLINUX_UTIME_OMIT }
        return changes.contains(now) ? CLINUX_UTIME_NOW : Int64(min(part, 999_999_999))
    }

    /// ACCESS: drivers that do not check permissions themselves ask. Groups besides the user's first
    /// are not known here.
    func checkAccess() throws(FUSEError) {
        let mask = try request.next(UInt32.self) & 7
        let status = try node().status()
        if request.user == 0 {
            let isExecutable = status.mode & 0o111 != 0 || status.mode & S_IFMT == S_IFDIR
            guard mask & 1 == 0 || isExecutable else { throw FUSEError(EACCES) }
            return
        }
        let shift: UInt32 =
            reply.users.guest(status.user) == request.user
            ? 6 : reply.groups.guest(status.group) == request.group ? 3 : 0
        guard status.mode >> shift & mask == mask else { throw FUSEError(EACCES) }
    }

    /// STATFS (`fuse_kstatfs`)
    func getSpace() throws(FUSEError) {
        var space = clinux_space()
        try fuseChecking(unsafe clinux_space(node().fd, &space))
        reply.put(space.blocks)
        reply.put(space.free_blocks)
        reply.put(space.available_blocks)
        reply.put(space.files)
        reply.put(space.free_files)
        reply.put(space.block_size)
        reply.put(space.name_length)
        reply.put(space.fragment_size)
        reply.putZeroes(7 * 4)
    }
}
