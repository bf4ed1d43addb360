internal import Synchronization

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
        var entries = SlotIDs<Entry>()
        var ids: [Node.Key: UInt64] = [:]
    }

    let root: Node
    private let state = Mutex(State())

    init(root: Node) { self.root = root }

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
        return state.withLock { Self.count(key, &$0) }
    }

    /// Adds a file, or counts a look-up if it is there already.
    /// - Returns: its number.
    func add(_ node: Node) -> UInt64 {
        if node.key == root.key { return Self.rootID }
        return state.withLock { state in
            if let id = Self.count(node.key, &state) { return id }
            let id = state.entries.insert(Entry(node: node, lookups: 1))
            state.ids[node.key] = id
            return id
        }
    }

    private static func count(_ key: Node.Key, _ state: inout State) -> UInt64? {
        guard let id = state.ids[key] else { return nil }
        state.entries[id]?.lookups &+= 1
        return id
    }

    /// Takes `count` look-ups back. The root is never forgotten.
    func forget(_ id: UInt64, _ count: UInt64) {
        // The node may go with its last holder, which must not happen under the lock.
        _ = state.withLock { state -> Node? in
            guard let entry = state.entries[id] else { return nil }
            if count < entry.lookups {
                state.entries[id]?.lookups -= count
                return nil
            }
            state.entries.remove(id)
            state.ids[entry.node.key] = nil
            return entry.node
        }
    }

    /// Forgets all files but the root.
    func removeAll() {
        let old = state.withLock { state -> State in
            let old = state
            state.entries.removeAll()
            state.ids = [:]
            return old
        }
        _ = old
    }
}
