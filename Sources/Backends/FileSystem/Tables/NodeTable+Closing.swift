internal import CLinux
internal import Core
internal import Glibc
internal import Synchronization

// A driver may know more files than a process can have open. Those that were found first are then
// closed, and opened again when they are asked for: by their handles, where the process has the right
// to do that (FileHandles.swift), and otherwise by name, each as a name in a folder that the driver
// knows as well, so that folders may be moved. What changes a name through this process opens the file
// before (`keepOpen`), and what has no name is not closed. If the host's own programs have removed a
// file that is closed, or have moved or replaced one without a handle, it is stale, and drivers look
// up its name again.
//
// All of it in threads that have entered their descriptors.

/// How a file that was closed is found again, and known to be the same.
final class ClosedNode: Sendable {
    enum Place {
        /// A name in the folder in which it was found.
        case name([CChar])
        case handle(clinux_file_handle)
        /// A path that begins in the shared folder.
        case path([CChar])
        /// It is lost.
        case nowhere
    }

    let key: Node.Key
    let place: Place
    /// The handle that it has by another process's state, and by which it is looked for first.
    let claim: clinux_file_handle?
    /// When it was made, as far as the file system says.
    let seconds: Int64
    let nanoseconds: UInt32
    /// Whether the key's mount is this process's.
    let knowsMount: Bool

    init(_ place: Place, _ status: clinux_file_status) {
        key = Node.Key(status)
        self.place = place
        claim = nil
        seconds = status.btime
        nanoseconds = status.btime_ns
        knowsMount = true
    }

    /// One that a process knew which shared the folder before (FolderState.swift).
    /// - Parameter opensHandles: whether this process can open files by their handles.
    init(_ saved: SavedNode, _ root: Node.Key, opensHandles: Bool) {
        key = Node.Key(
            inode: saved.inode, device: saved.device ?? root.device,
            mount: saved.isOnOtherMount ? 0 : root.mount)
        knowsMount = !saved.isOnOtherMount
        place = saved.place
        claim = opensHandles && !saved.isOnOtherMount ? saved.handle : nil
        seconds = saved.seconds
        nanoseconds = saved.nanoseconds
    }

    /// One that an earlier process has closed.
    init(_ kept: clinux_kept_node, _ place: clinux_kept_place) {
        key = Node.Key(kept)
        self.place = place.has_handle != 0 ? .handle(place.handle) : .name(place.text)
        claim = nil
        seconds = place.seconds
        nanoseconds = place.nanoseconds
        knowsMount = true
    }

    /// An inode's number says nothing once nobody has it open.
    func isSame(_ status: clinux_file_status) -> Bool {
        let found = Node.Key(status)
        return found.inode == key.inode && found.device == key.device
            && (!knowsMount || found.mount == key.mount)
            && status.btime == seconds && status.btime_ns == nanoseconds
    }
}

extension NodeTable {
    /// How many are closed at once.
    private static let batch = 16
    /// How many are looked at for it.
    private static let search = 512
    /// How many folders one in the other may be closed. It ends where the host has moved them.
    private static let depthLimit = 512

    private enum Found {
        case open(Node)
        case closed(ClosedNode, parent: UInt64)
    }

    private func find(_ id: UInt64) throws(FUSEError) -> Found {
        if id == Self.rootID { return .open(root) }
        guard let entry = state.withLock({ $0.entries[id] }) else { throw .stale }
        switch entry.content {
        case .open(let node): return .open(node)
        case .closed(let node): return .closed(node, parent: entry.parent)
        }
    }

    func node(_ id: UInt64, closesOthers: Bool = true) throws(FUSEError) -> Node {
        if case .open(let node) = try find(id) { return node }
        // The closed folders on the way to it, from below.
        var way: [(id: UInt64, node: ClosedNode)] = []
        var next = id
        var found: Node?
        walk: while true {
            switch try find(next) {
            case .open(let node):
                found = node
                break walk
            case .closed(let node, let parent):
                if let claimed = openClaimed(next, node, closesOthers: closesOthers) {
                    found = claimed
                    break walk
                }
                guard way.count < Self.depthLimit else { throw .stale }
                way.append((next, node))
                guard case .name = node.place else { break walk }
                next = parent
            }
        }
        for step in way.reversed() {
            let fd = try open(step.node, in: found)
            found = try setOpen(step.id, step.node, fd, closesOthers: closesOthers)
        }
        guard let found else { throw .stale }
        return found
    }

    /// Opens a file by the handle that it has by another process's state. A handle leads to wherever
    /// in its file system the file lies, and whoever brings a state may make one up: the file counts
    /// only if it is found beneath the shared folder. What has no name any more is not, and counts
    /// only if the user trusts those who bring states.
    private func openClaimed(_ id: UInt64, _ closed: ClosedNode, closesOthers: Bool) -> Node? {
        guard let claim = closed.claim, let fileHandles, let fd = try? fileHandles.open(claim),
            let status = try? FileStatus.of(fd.rawValue), closed.isSame(status),
            takesNameless && status.links == 0
                || SharedPaths(root).holds(fd.rawValue, Node.Key(status))
        else { return nil }
        return try? setOpen(id, closed, fd, closesOthers: closesOthers)
    }

    private func open(_ closed: ClosedNode, in folder: Node?) throws(FUSEError) -> OwnedFD {
        switch closed.place {
        case .name(let name):
            guard let folder else { throw .stale }
            return try Self.open(name, in: folder)
        case .handle(let handle):
            guard let fileHandles else { throw .stale }
            return try fileHandles.open(handle)
        case .path(let path): return try Self.open(path, in: root)
        case .nowhere: throw .stale
        }
    }

    private static func open(_ name: [CChar], in folder: Node) throws(FUSEError) -> OwnedFD {
        let result = unsafe name.withUnsafeBufferPointer { text -> Int32 in
            guard let text = text.baseAddress else { return -ESTALE }
            return unsafe clinux_open_beneath(folder.fd, text, CLINUX_O_PATH | O_NOFOLLOW, 0)
        }
        if result == -ENOENT || result == -ENOTDIR { throw .stale }
        return OwnedFD(owning: try fuseChecking(result))
    }

    /// A file that was closed has been opened again.
    private func setOpen(
        _ id: UInt64, _ closed: ClosedNode, _ fd: consuming OwnedFD, closesOthers: Bool = true
    ) throws(FUSEError) -> Node {
        let status = try FileStatus.of(fd.rawValue)
        guard closed.isSame(status) else { throw .stale }
        let node = Node(fd, status)
        let (found, isFull) = state.withLock { state -> (Node?, Bool) in
            guard var entry = state.entries[id] else { return (nil, false) }
            // Another thread may have been quicker.
            if let other = entry.content.node { return (other, false) }
            setOpen(id, node, &entry, &state)
            return (node, state.openCount > openLimit)
        }
        guard let found else { throw .stale }
        if isFull, closesOthers { closeSome() }
        return found
    }

    /// A name will stand for something else, or for nothing. What it stands for is opened, if it is
    /// closed, because it will not be found again.
    /// - Returns: what `stayOpen` takes afterwards.
    func keepOpen(_ folder: Node, _ name: FUSEText) -> Node? {
        guard closedCount.load(ordering: .relaxed) > 0,
            let status = try? FileStatus.of(folder.fd, name)
        else { return nil }
        let found = state.withLock { state -> (UInt64, Content)? in
            guard let id = state.ids[Node.Key(status)] else { return nil }
            return state.entries[id].map { (id, $0.content) }
        }
        switch found {
        case (_, .open(let node))?: return node
        case (let id, .closed(let node))?:
            let count = unsafe strlen(name.pointer) + 1
            let text = unsafe Array(UnsafeBufferPointer(start: name.pointer, count: count))
            guard let fd = try? Self.open(text, in: folder) else { return nil }
            return try? setOpen(id, node, fd)
        case nil: return nil
        }
    }

    /// Another thread may have closed it before its name has gone.
    func stayOpen(_ node: Node?) {
        guard let node else { return }
        state.withLock { state in
            guard let id = state.ids[node.key], var entry = state.entries[id],
                entry.content.node == nil
            else { return }
            setOpen(id, node, &entry, &state)
        }
    }

    private struct Candidate {
        let id: UInt64
        let node: Node
        let parent: UInt64
    }

    /// Closes some files that can be found again.
    func closeSome() {
        for candidate in candidates() {
            guard let closed = place(of: candidate) else { continue }
            // Closed outside the lock, when nobody uses it any more.
            _ = state.withLock { state -> Node? in
                guard var entry = state.entries[candidate.id],
                    let node = entry.content.node, node === candidate.node,
                    entry.parent == candidate.parent
                else { return nil }
                entry.content = .closed(closed)
                state.entries[candidate.id] = entry
                state.openCount -= 1
                closedCount.add(1, ordering: .relaxed)
                ledger?.noteClosed(candidate.id, closed)
                return node
            }
        }
    }

    /// Those that are to be closed next: files before folders, through which others are found.
    private func candidates() -> [Candidate] {
        state.withLock { state in
            var files: [Candidate] = []
            var folders: [Candidate] = []
            let slots = state.entries.slotCount
            for _ in 0..<min(Self.search, slots) where files.count < Self.batch {
                state.hand = state.hand + 1 < slots ? state.hand + 1 : 0
                guard let (id, entry) = state.entries[slot: state.hand],
                    let node = entry.content.node, entry.parent != 0
                else { continue }
                let candidate = Candidate(id: id, node: node, parent: entry.parent)
                if !node.isFolder {
                    files.append(candidate)
                } else if folders.count < Self.batch {
                    folders.append(candidate)
                }
            }
            return files.isEmpty ? folders : files
        }
    }

    /// How a file is found again, if it can be.
    private func place(of candidate: Candidate) -> ClosedNode? {
        guard let fileHandles, candidate.node.key.mount == root.key.mount else {
            return findByName(candidate)
        }
        // One without a name is gone when nobody has it open.
        guard let handle = fileHandles.handle(of: candidate.node),
            let status = try? candidate.node.status(), status.links > 0
        else { return nil }
        return ClosedNode(.handle(handle), status)
    }

    /// How a file is found in its folder, if it is there.
    private func findByName(_ candidate: Candidate) -> ClosedNode? {
        let parent = try? node(candidate.parent, closesOthers: false)
        guard let parent, parent !== candidate.node else { return nil }
        // SAFETY: the kernel writes to the array at most as many bytes as it is told, and a NUL.
        var name = [CChar](repeating: 0, count: FUSELimit.name + 1)
        guard unsafe clinux_last_name(candidate.node.fd, &name, name.count) > 0 else { return nil }
        let status = unsafe name.withUnsafeBufferPointer { text -> clinux_file_status? in
            guard let text = text.baseAddress else { return nil }
            return try? unsafe FileStatus.of(parent.fd, FUSEText(pointer: text))
        }
        guard let status, Node.Key(status) == candidate.node.key else { return nil }
        name.removeSubrange(((name.firstIndex(of: 0) ?? 0) + 1)...)
        return ClosedNode(.name(name), status)
    }
}
