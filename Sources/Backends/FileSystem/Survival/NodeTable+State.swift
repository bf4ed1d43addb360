internal import CLinux
internal import Core
internal import Glibc
internal import Synchronization

// Nodes on their way to a process that shares the folder later (FileSystem+State.swift). In threads
// that have entered their descriptors, but for `read` and `replace`.
extension NodeTable {
    // MARK: Saving

    /// - Returns: those that no other process will find.
    func save(_ writer: inout FolderState.Writer) throws(VirtioDeviceError) -> Set<UInt64> {
        let entries = state.withLock { $0.entries }
        var lost: Set<UInt64> = []
        let search = NameSearch(self)
        writer.putCount(entries.slotCount)
        for index in 0..<entries.slotCount {
            let entry = entries[slot: index]
            let node = entry.flatMap { saved($0.item, search) }
            if let id = entry?.id, let node, !isFound(node) { lost.insert(id) }
            writer.put(node, generation: entries.generation(slot: index))
            try writer.checkSize()
        }
        return lost
    }

    /// Whether a process with the same options will find it.
    private func isFound(_ node: SavedNode) -> Bool {
        switch node.place {
        case .name, .path: true
        case .handle, .nowhere: node.handle != nil && (takesNameless || !node.isRemoved)
        }
    }

    private func saved(_ entry: Entry, _ search: NameSearch) -> SavedNode? {
        var node = SavedNode(
            lookups: entry.lookups, parent: entry.parent, type: 0, inode: entry.content.key.inode,
            isOnOtherMount: entry.content.key.mount != root.key.mount, seconds: 0, nanoseconds: 0,
            place: .nowhere)
        if entry.content.key.device != root.key.device { node.device = entry.content.key.device }
        switch entry.content {
        case .open(let open):
            node.type = open.type
            guard let status = try? open.status() else { return node }
            node.seconds = status.btime
            node.nanoseconds = status.btime_ns
            node.isRemoved = status.links == 0
            (node.parent, node.place) = search.place(of: open, in: entry.parent, status)
            if !node.isOnOtherMount { node.handle = fileHandles?.handle(of: open) }
        case .closed(let closed):
            node.seconds = closed.seconds
            node.nanoseconds = closed.nanoseconds
            node.handle = closed.claim
            if case .handle(let handle) = closed.place {
                node.handle = handle
            } else {
                node.place = closed.place
            }
        }
        return node
    }

    // MARK: Loading

    /// Reads nodes that another process knew, all of them closed.
    func read(_ reader: inout FolderState.Reader) throws(VirtioDeviceError) -> State {
        var new = State()
        for _ in 0..<(try reader.count(limit: Ledger.nodeLimit)) {
            let (generation, saved) = try reader.node()
            guard let saved else {
                new.entries.restore(nil, generation: generation)
                continue
            }
            let content = Content.closed(
                ClosedNode(saved, root.key, opensHandles: fileHandles != nil))
            let entry = Entry(content: content, lookups: saved.lookups, parent: saved.parent)
            let id = new.entries.restore(entry, generation: generation)
            if new.ids[content.key] == nil { new.ids[content.key] = id }
        }
        return new
    }

    /// Puts what another process knew in the place of all that is known.
    func replace(with new: State) {
        let old = state.withLock { state -> State in
            defer { state = new }
            closedCount.store(new.entries.count, ordering: .relaxed)
            return state
        }
        _ = old
    }

    /// Opens what is closed, as far as there are descriptors: as long as a file is open, nobody can
    /// move it away.
    /// - Parameter deadline: the time at which the others stay closed.
    /// - Returns: how many were not found.
    func openAll(until deadline: UInt64) -> Int {
        let entries = state.withLock { $0.entries }
        var lost = 0
        // What is mounted in the folder first: a file's number says nothing of where it lies.
        for isFirst in [true, false] {
            entries.forEach { id, entry in
                guard case .closed(let closed) = entry.content, closed.knowsMount != isFirst,
                    Clock.monotonic() < deadline, state.withLock({ $0.openCount }) < openLimit
                else { return }
                if (try? node(id, closesOthers: false)) == nil { lost += 1 }
            }
        }
        return lost
    }
}

/// Finds out by which names files that are open can be opened again.
private final class NameSearch {
    private let nodes: NodeTable
    private let paths: SharedPaths
    private let listing = FolderListing()
    /// How many entries of folders may still be looked at.
    private var patience = 1 << 18

    init(_ nodes: NodeTable) {
        self.nodes = nodes
        paths = SharedPaths(nodes.root)
    }

    func place(
        of node: Node, in parent: UInt64, _ status: clinux_file_status
    ) -> (parent: UInt64, ClosedNode.Place) {
        if let text = SharedPaths.text(node.fd) {
            let name = SharedPaths.lastName(text)
            if let folder = folder(parent), stands(name, in: folder, for: node) {
                return (parent, .name(name))
            }
            if let path = paths.path(text), paths.leads(path, to: node.key) {
                return (parent, .path(path))
            }
        }
        // That name is gone; it may have another one.
        return status.links > 0 && !node.isFolder ? search(node, from: parent) : (parent, .nowhere)
    }

    private func folder(_ id: UInt64) -> Node? {
        guard id != 0, let folder = try? nodes.node(id, closesOthers: false),
            folder.isFolder
        else { return nil }
        return folder
    }

    private func stands(_ name: [CChar], in folder: Node, for node: Node) -> Bool {
        guard name.count > 1 else { return false }
        return unsafe name.withUnsafeBufferPointer { text in
            guard let text = text.baseAddress,
                let status = try? unsafe FileStatus.of(folder.fd, FUSEText(pointer: text))
            else { return false }
            return Node.Key(status) == node.key
        }
    }

    /// Looks for another name of a file in the folders that the driver knows.
    private func search(_ node: Node, from first: UInt64) -> (parent: UInt64, ClosedNode.Place) {
        for id in [first] + nodes.ids where patience > 0 {
            guard let folder = folder(id), folder.key.mount == node.key.mount,
                let name = find(node, in: folder)
            else { continue }
            return (id, .name(name))
        }
        return (first, .nowhere)
    }

    private func find(_ node: Node, in folder: Node) -> [CChar]? {
        let result = unsafe clinux_open_beneath(folder.fd, ".", O_RDONLY | O_DIRECTORY, 0)
        guard result >= 0 else { return nil }
        let open = OwnedFD(owning: result)
        while patience > 0 {
            // SAFETY: the entries lie in the buffer as long as they are looked at.
            let count = unsafe clinux_read_folder(open.rawValue, listing.bytes, listing.size)
            guard count > 0 else { return nil }
            var entries = unsafe FolderListing.Entries(listing.bytes, count)
            while let entry = entries.next() {
                patience -= 1
                guard entry.inode == node.key.inode, !entry.isSpecial else { continue }
                let name = unsafe Array(
                    UnsafeBufferPointer(
                        start: entry.nameText.pointer, count: entry.nameLength + 1))
                if stands(name, in: folder, for: node) { return name }
            }
        }
        return nil
    }
}
