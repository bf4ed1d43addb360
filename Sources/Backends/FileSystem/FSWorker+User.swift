internal import CLinux

// As whom things are done (FileUser.swift).
extension FSWorker {
    /// The user and the group that the host knows the request's by.
    private func requestUser() throws(FUSEError) -> (UInt32, UInt32) {
        let options = fileSystem.options
        return (try options.users.host(request.user), try options.groups.host(request.group))
    }

    /// Becomes root, unless the request can be met as whoever this thread is.
    func settleUser(_ opcode: FUSEOpcode) {
        if user.isRoot || opcode.isAnybodys { return }
        if opcode.isUsers, let (id, group) = try? requestUser(), user.isSame(id, group) { return }
        user.becomeRoot()
    }

    /// Becomes root where the rights of the user in force may not be enough.
    func settleUser(at node: Node) {
        if node.key.device != fileSystem.localDevice { user.becomeRoot() }
    }

    /// Makes something in a folder as the user who made the request.
    /// - Parameter mask: what the user takes from the mode, as far as that is not done yet.
    @discardableResult
    func asUser<R>(
        in folder: Node, mask: UInt32, _ body: () throws(FUSEError) -> R
    ) throws(FUSEError) -> R {
        guard fileSystem.has(.leavesMask) else { return try asUser(in: folder, body) }
        clinux_set_mask(mask & 0o777)
        defer { clinux_set_mask(0) }
        return try asUser(in: folder, body)
    }

    private func asUser<R>(
        in folder: Node, _ body: () throws(FUSEError) -> R
    ) throws(FUSEError) -> R {
        let (id, group) = try requestUser()
        guard fileSystem.setsUsers else { return try body() }
        try user.become(id, group)
        defer { settleUser(at: folder) }
        return try body()
    }

    /// Does something without the right to keep set-ID bits, if they are to go.
    func droppingSetID<R: ~Copyable>(
        _ isWanted: Bool, _ body: () throws(FUSEError) -> R
    ) throws(FUSEError) -> R {
        guard isWanted, fileSystem.setsUsers, user.keepsSetID else { return try body() }
        try fuseChecking(clinux_may_keep_set_id(0))
        defer { _ = clinux_may_keep_set_id(1) }
        return try body()
    }

    /// Writes to an open file. Most users lose a file's set-ID bits by that, so they do it themselves.
    func asWriter<R: ~Copyable>(
        dropsSetID: Bool, _ body: () throws(FUSEError) -> R
    ) throws(FUSEError) -> R {
        guard fileSystem.has(.dropsSetID), fileSystem.setsUsers else { return try body() }
        guard dropsSetID else {
            user.becomeRoot()
            return try body()
        }
        if user.isRoot, let (id, group) = try? requestUser(), id != 0 {
            try? user.become(id, group)
        }
        return try droppingSetID(true, body)
    }
}
