internal import CLinux
internal import Core
internal import Glibc

/// The files that the driver knows, by number, and how often it was told each number: it gives
/// them back by count (FUSE: LOOKUP and FORGET).
final class NodeTable: Sendable {
    /// The shared folder's own number (FUSE_ROOT_ID).
    static let rootID: UInt64 = 1

    private struct Entry {
        let node: Node
        var lookups: UInt64
    }

    private struct State {
        var entries = SlotIDs<Entry>(limit: Ledger.nodeLimit)
        var ids: [Node.Key: UInt64] = [:]
    }

    let root: Node
    private let state: Lock<State>
    private let ledger: Ledger?

    /// - Parameter ledger: holds what is known already.
    init(root: Node, _ ledger: Ledger?) {
        self.root = root
        self.ledger = ledger
        var known = State()
        if let ledger {
            for index in 0..<ledger.nodeSlots {
                let kept = ledger.keptNode(index)
                guard kept.kept.isUsed else {
                    known.entries.restore(nil, generation: kept.kept.generation)
                    continue
                }
                let node = Node(kept, ledger.column)
                known.ids[node.key] = known.entries.restore(
                    Entry(node: node, lookups: kept.lookups), generation: kept.kept.generation)
            }
        }
        state = Lock(known)
    }

    /// How many files are known, besides the root.
    var count: Int { state.withLock { $0.entries.count } }

    func node(_ id: UInt64) throws(FUSEError) -> Node {
        if id == Self.rootID { return root }
        guard let node = state.withLock({ $0.entries[id]?.node }) else { throw .stale }
        return node
    }

    /// Counts a look-up of a file that is known already.
    /// - Returns: its number; `nil` if it is not known.
    func lookUp(_ key: Node.Key) -> UInt64? {
        if key == root.key { return Self.rootID }
        return state.withLock { count(key, &$0) }
    }

    /// Adds a file, or counts a look-up if it is there already.
    /// - Returns: its number.
    func add(_ node: Node) throws(FUSEError) -> UInt64 {
        if node.key == root.key { return Self.rootID }
        let id = state.withLock { state -> UInt64? in
            if let id = count(node.key, &state) { return id }
            guard let id = state.entries.insert(Entry(node: node, lookups: 1)) else { return nil }
            state.ids[node.key] = id
            ledger?.note(id, node, lookups: 1)
            return id
        }
        guard let id else { throw FUSEError(ENFILE) }
        return id
    }

    private func count(_ key: Node.Key, _ state: inout State) -> UInt64? {
        guard let id = state.ids[key] else { return nil }
        setLookups(of: id, &state) { $0 &+ 1 }
        return id
    }

    private func setLookups(of id: UInt64, _ state: inout State, _ change: (UInt64) -> UInt64) {
        guard var entry = state.entries[id] else { return }
        entry.lookups = change(entry.lookups)
        state.entries[id] = entry
        ledger?.note(id, lookups: entry.lookups)
    }

    /// Takes `count` look-ups back. The root is never forgotten.
    /// - Parameter noting: is told before how many will be left.
    func forget(_ id: UInt64, _ count: UInt64, noting: (UInt64) -> Void = { _ in }) {
        // The node may go with its last holder, which must not happen under the lock.
        _ = state.withLock { state -> Node? in
            guard let entry = state.entries[id] else { return nil }
            noting(entry.lookups - min(count, entry.lookups))
            if count < entry.lookups {
                setLookups(of: id, &state) { $0 - count }
                return nil
            }
            state.entries.remove(id)
            ledger?.forgetNode(id)
            state.ids[entry.node.key] = nil
            return entry.node
        }
    }

    /// Forgets all files but the root.
    func removeAll() {
        let old = state.withLock { state -> State in
            let old = state
            state.entries.removeAll { ledger?.forgetNode($0) }
            state.ids = [:]
            return old
        }
        _ = old
    }
}
