internal import CLinux
internal import Core
internal import Glibc
internal import Synchronization

/// The files that the driver knows, by number, and how often it was told each number: it gives
/// them back by count (FUSE: LOOKUP and FORGET). There may be more than a process can have open; see
/// NodeTable+Closing.swift.
final class NodeTable: Sendable {
    /// The shared folder's own number (FUSE_ROOT_ID).
    static let rootID: UInt64 = 1

    enum Content: Sendable {
        case open(Node)
        case closed(ClosedNode)

        var key: Node.Key {
            switch self {
            case .open(let node): node.key
            case .closed(let node): node.key
            }
        }

        var node: Node? {
            if case .open(let node) = self { node } else { nil }
        }
    }

    struct Entry: Sendable {
        var content: Content
        var lookups: UInt64
        /// The number of a folder in which it was found; 0: that is not known.
        var parent: UInt64
    }

    struct State: Sendable {
        var entries = SlotIDs<Entry>(limit: Ledger.nodeLimit)
        var ids: [Node.Key: UInt64] = [:]
        var openCount = 0
        /// Where those to be closed next are looked for.
        var hand = 0
    }

    let root: Node
    let state: Lock<State>
    let ledger: Ledger?
    /// By what those are found again that are closed, if not by name.
    let fileHandles: FileHandles?
    /// How many may be open.
    let openLimit: Int
    /// Whether handles of another process's state may lead to files without a name.
    let takesNameless: Bool
    /// How many are closed; written under the lock.
    let closedCount = Atomic<Int>(0)

    /// - Parameter ledger: holds what is known already.
    init(
        root: Node, _ ledger: Ledger?, _ fileHandles: FileHandles? = nil, openLimit: Int = .max,
        takesNameless: Bool = false
    ) {
        self.root = root
        self.fileHandles = fileHandles
        self.ledger = ledger
        self.openLimit = openLimit
        self.takesNameless = takesNameless
        var known = State()
        var closed = 0
        if let ledger {
            for index in 0..<ledger.nodeSlots {
                let kept = ledger.keptNode(index)
                guard kept.kept.isUsed else {
                    known.entries.restore(nil, generation: kept.kept.generation)
                    continue
                }
                let isClosed = kept.kept.number(in: ledger.column) < 0
                let content: Content =
                    isClosed
                    ? .closed(ClosedNode(kept, ledger.place(index)))
                    : .open(Node(kept, ledger.column))
                let entry = Entry(content: content, lookups: kept.lookups, parent: kept.parent)
                if isClosed { closed += 1 } else { known.openCount += 1 }
                known.ids[content.key] = known.entries.restore(
                    entry, generation: kept.kept.generation)
            }
        }
        state = Lock(known)
        closedCount.store(closed, ordering: .relaxed)
    }

    /// How many files are known, besides the root.
    var count: Int { state.withLock { $0.entries.count } }

    /// Counts a look-up of a file that is known already, and open.
    /// - Parameter parent: where it was found.
    /// - Returns: its number; `nil` if it is not.
    func lookUp(_ key: Node.Key, in parent: UInt64) -> UInt64? {
        if key == root.key { return Self.rootID }
        return state.withLock { state in
            guard let id = state.ids[key], let entry = state.entries[id],
                entry.content.node != nil
            else { return nil }
            count(id, entry, parent, &state)
            return id
        }
    }

    /// Adds a file, or counts a look-up if it is there already.
    /// - Returns: its number.
    func add(
        _ node: Node, _ status: clinux_file_status, in parent: UInt64
    ) throws(FUSEError) -> UInt64 {
        if node.key == root.key { return Self.rootID }
        let (id, isFull) = state.withLock { state -> (UInt64?, Bool) in
            if let id = reopen(node, status, parent, &state) {
                return (id, state.openCount > openLimit)
            }
            let entry = Entry(content: .open(node), lookups: 1, parent: parent)
            guard let id = state.entries.insert(entry) else { return (nil, false) }
            state.ids[node.key] = id
            state.openCount += 1
            ledger?.note(id, node, lookups: 1, parent: parent)
            return (id, state.openCount > openLimit)
        }
        guard let id else { throw FUSEError(ENFILE) }
        if isFull { closeSome() }
        return id
    }

    /// Counts a look-up of a file that is there already, perhaps closed.
    private func reopen(
        _ node: Node, _ status: clinux_file_status, _ parent: UInt64, _ state: inout State
    ) -> UInt64? {
        guard let id = state.ids[node.key], var entry = state.entries[id] else { return nil }
        if case .closed(let closed) = entry.content {
            guard closed.isSame(status) else {
                // The file is gone, and another has its inode's number.
                state.ids[node.key] = nil
                return nil
            }
            setOpen(id, node, &entry, &state)
        }
        count(id, entry, parent, &state)
        return id
    }

    /// A file that was closed is open again.
    func setOpen(_ id: UInt64, _ node: Node, _ entry: inout Entry, _ state: inout State) {
        let old = entry.content.key
        entry.content = .open(node)
        state.entries[id] = entry
        if old != node.key {
            if state.ids[old] == id { state.ids[old] = nil }
            if state.ids[node.key] == nil { state.ids[node.key] = id }
        }
        state.openCount += 1
        closedCount.subtract(1, ordering: .relaxed)
        ledger?.note(id, descriptor: node.fd)
    }

    private func count(
        _ id: UInt64, _ old: Entry, _ parent: UInt64, _ state: inout State
    ) {
        var entry = old
        entry.lookups &+= 1
        if entry.parent != parent {
            entry.parent = parent
            ledger?.note(id, parent: parent)
        }
        state.entries[id] = entry
        ledger?.note(id, lookups: entry.lookups)
    }

    /// The number of a file that is known.
    func id(of key: Node.Key) -> UInt64? {
        key == root.key ? Self.rootID : state.withLock { $0.ids[key] }
    }

    func isKnown(_ id: UInt64) -> Bool {
        id == Self.rootID || state.withLock { $0.entries[id] != nil }
    }

    /// The numbers of all files that are known.
    var ids: [UInt64] {
        state.withLock { state in
            var ids = [Self.rootID]
            state.entries.forEach { id, _ in ids.append(id) }
            return ids
        }
    }

    /// Calls `body` with the number of each file that is known and open, and that of its folder.
    func forEachOpen(_ body: (UInt64, Node, _ parent: UInt64) -> Void) {
        body(Self.rootID, root, 0)
        state.withLock { $0.entries }.forEach { id, entry in
            if let node = entry.content.node { body(id, node, entry.parent) }
        }
    }

    /// Takes `count` look-ups back. The root is never forgotten.
    /// - Parameter noting: is told before how many will be left.
    func forget(_ id: UInt64, _ count: UInt64, noting: (UInt64) -> Void = { _ in }) {
        // The node may go with its last holder, which must not happen under the lock.
        _ = state.withLock { state -> Content? in
            guard var entry = state.entries[id] else { return nil }
            noting(entry.lookups - min(count, entry.lookups))
            if count < entry.lookups {
                entry.lookups -= count
                state.entries[id] = entry
                ledger?.note(id, lookups: entry.lookups)
                return nil
            }
            state.entries.remove(id)
            ledger?.forgetNode(id)
            let key = entry.content.key
            if state.ids[key] == id { state.ids[key] = nil }
            if entry.content.node != nil {
                state.openCount -= 1
            } else {
                closedCount.subtract(1, ordering: .relaxed)
            }
            return entry.content
        }
    }

    /// Forgets all files but the root.
    func removeAll() {
        let old = state.withLock { state -> State in
            let old = state
            state.entries.removeAll { ledger?.forgetNode($0) }
            state.ids = [:]
            state.openCount = 0
            closedCount.store(0, ordering: .relaxed)
            return old
        }
        _ = old
    }
}
