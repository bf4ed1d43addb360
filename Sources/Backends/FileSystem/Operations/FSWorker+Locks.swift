internal import CLinux
internal import Core
internal import Glibc

// Locks, which the host's kernel keeps: record locks of whoever the driver says (fcntl(2)), and locks
// of whole open files (flock(2)).
extension FSWorker {
    /// `fuse_lk_in`
    private struct LockRequest {
        let file: OpenFile
        let owner: LockOwner
        let range: HeldLocks.Range
        let isFlock: Bool

        var kind: HeldLocks.Kind { range.kind }
    }

    private func lockRequest() throws(FUSEError) -> LockRequest {
        let handle = try request.next(UInt64.self)
        let file = try fileSystem.handles.file(handle, of: request.nodeID)
        let owner = try request.next(UInt64.self)
        let start = Int64(exactly: try request.next(UInt64.self))
        let end = Int64(exactly: try request.next(UInt64.self))
        let type = try request.next(UInt32.self)
        let process = try request.next(UInt32.self)
        let flags = try request.next(UInt32.self)
        guard let start, let end, start <= end else { throw .invalid }
        guard let kind = UInt8(exactly: type).flatMap(HeldLocks.Kind.init(rawValue:)) else {
            throw .invalid
        }
        return LockRequest(
            file: file, owner: LockOwner(id: owner, process: process, handle: handle),
            range: HeldLocks.Range(start: start, end: end, kind: kind),
            isFlock: flags & FUSELock.flock != 0)
    }

    /// GETLK: which lock would be in the way.
    func findLock() throws(FUSEError) {
        guard fileSystem.options.hasPosixLocks else { throw .unknownRequest }
        let wanted = try lockRequest()
        guard !wanted.isFlock, wanted.kind != .unlock else { throw .invalid }
        let own = fileSystem.locks.find(request.nodeID, wanted.owner.id)
        var found = wanted.range.asLock
        // Nobody has locks by what the driver has open.
        try fuseChecking(unsafe clinux_find_lock((own ?? wanted.file).fd, &found))
        let isFree = HeldLocks.Kind(found.type) == .unlock
        reply.put(UInt64(isFree ? 0 : found.start))
        reply.put(
            isFree ? 0 : UInt64(found.length == 0 ? .max : found.start + (found.length - 1)))
        reply.put(UInt32(found.type))
        reply.put(isFree ? 0 : holder(of: found)?.lockOwner.process ?? 0)
    }

    /// Who holds a lock: the only one to whom it is not in the way. Of several readers it is not known.
    private func holder(of lock: clinux_lock) -> OpenFile? {
        fileSystem.locks.all(of: request.nodeID).first { file in
            var other = HeldLocks.Range(start: lock.start, end: lock.start, kind: .write).asLock
            return unsafe clinux_find_lock(file.fd, &other) == 0
                && HeldLocks.Kind(other.type) == .unlock
        }
    }

    /// SETLK and SETLKW
    func setLock(waits: Bool) throws(FUSEError) -> Outcome {
        guard fileSystem.options.hasLocks else {
            throw .unknownRequest
        }
        let wanted = try lockRequest()
        let result = try wanted.isFlock ? lockFile(wanted) : lockRange(wanted)
        if result == -EAGAIN || result == -EACCES, waits {
            if fileSystem.waits.isInterrupted(request.unique) { throw FUSEError(EINTR) }
            if !wanted.isFlock, let blocker = blocker(of: wanted) {
                let mayWait = fileSystem.waits.wait(
                    request.unique, of: wanted.owner.id, for: blocker.lockOwner.id)
                guard mayWait else { throw FUSEError(EDEADLK) }
            }
            return .later
        }
        try fuseChecking(result)
        // A write lock may have become a read lock.
        if wanted.kind != .write { fileSystem.waits.retry() }
        return .reply
    }

    /// Which of the driver's users holds what is in the way, as far as that is known.
    private func blocker(of wanted: LockRequest) -> OpenFile? {
        guard let own = fileSystem.locks.find(request.nodeID, wanted.owner.id) else { return nil }
        var found = wanted.range.asLock
        guard unsafe clinux_find_lock(own.fd, &found) == 0,
            HeldLocks.Kind(found.type) != .unlock
        else { return nil }
        return holder(of: found)
    }

    private func lockFile(_ wanted: LockRequest) throws(FUSEError) -> Int32 {
        guard fileSystem.options.hasFileLocks else { throw FUSEError(EOPNOTSUPP) }
        let operation =
            switch wanted.kind {
            case .read: LOCK_SH
            case .write: LOCK_EX
            case .unlock: LOCK_UN
            }
        let result = clinux_lock_open_file(wanted.file.fd, operation | LOCK_NB)
        if result == 0 { wanted.file.held.withLock { $0.wholeFile = operation } }
        return result
    }

    private func lockRange(_ wanted: LockRequest) throws(FUSEError) -> Int32 {
        guard fileSystem.options.hasPosixLocks else { throw FUSEError(EOPNOTSUPP) }
        let id = request.nodeID
        let holder: OpenFile
        if wanted.kind == .unlock {
            guard let there = fileSystem.locks.find(id, wanted.owner.id) else { return 0 }
            holder = there
        } else {
            let node = try node()
            holder = try fileSystem.locks.find(id, wanted.owner) { () throws(FUSEError) in
                try Self.openForLocks(node)
            }
        }
        var lock = wanted.range.asLock
        let result = unsafe clinux_set_lock(holder.fd, &lock)
        if result == 0 {
            holder.held.withLock {
                $0.set(wanted.range.start, through: wanted.range.end, wanted.kind)
            }
        }
        return result
    }

    /// Read locks want a file that is open for reading, write locks one for writing. Whether the
    /// driver's user has it open like that, the driver knows.
    static func openForLocks(_ node: Node) throws(FUSEError) -> OwnedFD {
        guard node.isRegular else { throw .invalid }
        var result = -EACCES
        for flags in [O_RDWR, O_RDONLY, O_WRONLY]
        where result == -EACCES || result == -EROFS || result == -ETXTBSY {
            result = clinux_reopen(node.fd, flags)
        }
        return OwnedFD(owning: try fuseChecking(result))
    }

    /// INTERRUPT has no reply, unless the driver is to try again: the request may still be on its
    /// way.
    func interrupt() throws(FUSEError) -> Outcome {
        let unique = try request.next(UInt64.self)
        guard fileSystem.options.hasLocks else {
            return .nothing
        }
        if fileSystem.waits.interrupt(unique) { return .nothing }
        throw FUSEError(EAGAIN)
    }

    /// A user has closed a file, and with that lost what it had locked.
    func releaseLocks(of owner: UInt64) {
        guard fileSystem.options.hasPosixLocks else { return }
        if fileSystem.locks.release(request.nodeID, owner: owner) { fileSystem.waits.retry() }
    }
}
