internal import CLinux
internal import Core
internal import Glibc

/// The files and folders that the driver has open, by number.
final class HandleTable: Sendable {
    private let state: Lock<SlotIDs<OpenFile>>
    private let ledger: Ledger?
    private let limit: Int

    /// - Parameters:
    ///   - ledger: holds what is known already.
    ///   - limit: the most that may be open.
    init(_ ledger: Ledger?, limit: Int) {
        self.ledger = ledger
        self.limit = min(limit, Ledger.handleLimit)
        var open = SlotIDs<OpenFile>(limit: self.limit)
        if let ledger {
            for index in 0..<ledger.handleSlots {
                let kept = ledger.keptHandle(index)
                open.restore(
                    kept.kept.isUsed ? OpenFile(kept, ledger.column) : nil,
                    generation: kept.kept.generation)
            }
        }
        state = Lock(open)
    }

    var count: Int { state.withLock { $0.count } }

    func add(_ file: OpenFile) throws(FUSEError) -> UInt64 {
        let id = state.withLock { state in
            let id = state.insert(file)
            if let id { ledger?.note(id, file) }
            return id
        }
        guard let id else { throw FUSEError(ENFILE) }
        return id
    }

    /// An open file, if it is one of the node's.
    func file(_ id: UInt64, of nodeID: UInt64) throws(FUSEError) -> OpenFile {
        try find(id, of: nodeID, CLINUX_HANDLE_FILE)
    }

    /// An open folder, likewise.
    func folder(_ id: UInt64, of nodeID: UInt64) throws(FUSEError) -> OpenFile {
        try find(id, of: nodeID, CLINUX_HANDLE_FOLDER)
    }

    /// What holds a user's locks, likewise.
    func locks(_ id: UInt64, of nodeID: UInt64) throws(FUSEError) -> OpenFile {
        try find(id, of: nodeID, CLINUX_HANDLE_LOCKS)
    }

    private func find(
        _ id: UInt64, of nodeID: UInt64, _ kind: clinux_handle_kind
    ) throws(FUSEError) -> OpenFile {
        guard let file = state.withLock({ $0[id] }), file.nodeID == nodeID, file.kind == kind
        else { throw .badHandle }
        if file.isLost { throw .stale }
        return file
    }

    /// Calls `body` with each open file of a kind and its number.
    func forEach(_ kind: clinux_handle_kind, _ body: (UInt64, OpenFile) -> Void) {
        state.withLock { state in
            state.forEach { id, file in if file.kind == kind { body(id, file) } }
        }
    }

    /// A copy of the table.
    var snapshot: SlotIDs<OpenFile> { state.withLock { $0 } }

    /// An empty table, for `replace`.
    var empty: SlotIDs<OpenFile> { SlotIDs(limit: limit) }

    /// Puts what is open of another process in the place of all that is open.
    func replace(with new: SlotIDs<OpenFile>) {
        let old = state.withLock { state -> SlotIDs<OpenFile> in
            defer { state = new }
            return state
        }
        _ = old
    }

    /// Closes what the driver had open.
    func release(_ id: UInt64) {
        // What holds locks has no number that the driver was told.
        if state.withLock({ $0[id]?.kind == CLINUX_HANDLE_LOCKS }) { return }
        remove(id)
    }

    func remove(_ id: UInt64) {
        // Closed outside the lock.
        _ = state.withLock { state in
            let file = state.remove(id)
            if file != nil { ledger?.forgetHandle(id) }
            return file
        }
    }

    func removeAll() {
        let old = state.withLock { state -> SlotIDs<OpenFile> in
            let old = state
            state.removeAll { ledger?.forgetHandle($0) }
            return old
        }
        _ = old
    }
}
