internal import Synchronization

/// The files and folders that the driver has open, by number.
final class HandleTable: Sendable {
    private let state = Mutex(SlotIDs<OpenFile>())

    var count: Int { state.withLock { $0.count } }

    func add(_ file: OpenFile) -> UInt64 { state.withLock { $0.insert(file) } }

    /// An open file, if it is one of the node's.
    func file(_ id: UInt64, of nodeID: UInt64) throws(FUSEError) -> OpenFile {
        guard let file = state.withLock({ $0[id] }), file.nodeID == nodeID, !file.isFolder else {
            throw .badHandle
        }
        return file
    }

    /// An open folder, likewise.
    func folder(_ id: UInt64, of nodeID: UInt64) throws(FUSEError) -> OpenFile {
        guard let file = state.withLock({ $0[id] }), file.nodeID == nodeID, file.isFolder else {
            throw .badHandle
        }
        return file
    }

    func remove(_ id: UInt64) {
        // Closed outside the lock.
        _ = state.withLock { $0.remove(id) }
    }

    func removeAll() {
        let old = state.withLock { state -> SlotIDs<OpenFile> in
            let old = state
            state.removeAll()
            return old
        }
        _ = old
    }
}
