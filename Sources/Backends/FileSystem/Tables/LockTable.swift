internal import CLinux
internal import Core

/// Which open files hold the record locks of the driver's users. A user's locks of a file belong to
/// an open file of their own (F_OFD_SETLK, fcntl(2)): the host's kernel keeps them apart from all
/// others, here and elsewhere, and they go when it is closed.
final class LockTable: Sendable {
    private struct Holder {
        let owner: UInt64
        /// The open file by which it was made.
        let madeBy: UInt64
        /// What holds the locks.
        let handle: UInt64

        init(_ owner: LockOwner, _ handle: UInt64) {
            self.owner = owner.id
            madeBy = owner.handle
            self.handle = handle
        }
    }

    /// By the file's number.
    private let holders: Lock<[UInt64: [Holder]]>
    private let handles: HandleTable

    /// - Parameter handles: holds the locks that are known already.
    init(_ handles: HandleTable) {
        self.handles = handles
        holders = Lock(Self.known(handles))
    }

    private static func known(_ handles: HandleTable) -> [UInt64: [Holder]] {
        var known: [UInt64: [Holder]] = [:]
        handles.forEach(CLINUX_HANDLE_LOCKS) { id, file in
            known[file.nodeID, default: []].append(Holder(file.lockOwner, id))
        }
        return known
    }

    /// Another process's open files have taken the place of all that were open.
    func reload() {
        let known = Self.known(handles)
        holders.withLock { $0 = known }
    }

    /// What holds a user's locks of a file, if there can be any.
    func find(_ node: UInt64, _ owner: UInt64) -> OpenFile? {
        let handle = holders.withLock { holders in
            holders[node]?.first { $0.owner == owner }?.handle
        }
        return handle.flatMap { try? handles.locks($0, of: node) }
    }

    /// What holds a user's locks of a file; made by `open` if there is nothing yet.
    func find(
        _ node: UInt64, _ owner: LockOwner, open: () throws(FUSEError) -> OwnedFD
    ) throws(FUSEError) -> OpenFile {
        if let there = find(node, owner.id) { return there }
        let file = OpenFile(
            try open(), nodeID: node, CLINUX_HANDLE_LOCKS, lockOwner: owner)
        let handle = try handles.add(file)
        // Another thread of the user may have been here meanwhile.
        let other = holders.withLock { holders -> UInt64? in
            if let other = holders[node]?.first(where: { $0.owner == owner.id }) {
                return other.handle
            }
            holders[node, default: []].append(Holder(owner, handle))
            return nil
        }
        guard let other else { return file }
        handles.remove(handle)
        return try handles.locks(other, of: node)
    }

    /// All that hold locks of a file.
    func all(of node: UInt64) -> [OpenFile] {
        let handles = holders.withLock { $0[node] ?? [] }
        return handles.compactMap { try? self.handles.locks($0.handle, of: node) }
    }

    /// A user has closed a file, and so has no locks of it any more.
    /// - Returns: whether there may have been some.
    func release(_ node: UInt64, owner: UInt64) -> Bool {
        release(node) { $0.owner == owner }
    }

    /// What was open is so for nobody any more. A user of whom that was not said before is the open
    /// file itself: drivers do not say whose F_OFD_SETLK it was.
    /// - Returns: whether there may have been locks.
    func release(_ node: UInt64, handle: UInt64) -> Bool {
        release(node) { $0.madeBy == handle }
    }

    private func release(_ node: UInt64, _ isMeant: (Holder) -> Bool) -> Bool {
        let gone = holders.withLock { holders -> [UInt64] in
            guard let all = holders[node] else { return [] }
            let left = all.filter { !isMeant($0) }
            holders[node] = left.isEmpty ? nil : left
            return all.filter(isMeant).map(\.handle)
        }
        for handle in gone { handles.remove(handle) }
        return !gone.isEmpty
    }

    /// Forgets all. The open files are closed by the table that they are in.
    func removeAll() { holders.withLock { $0 = [:] } }
}
