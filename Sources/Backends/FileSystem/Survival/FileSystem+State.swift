internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

// How a process that shares the folder later goes on with what the driver knows and has open. A
// program that was started by itself has no keeper (Keeper.swift), so the next one opens all files
// anew: each by its name in a folder that is known as well, by its path in the shared folder if it
// was moved to one that is not, or by its handle where the process has the right to open such. What
// cannot be found, or is another file by now, is stale for the driver, and nothing else is.
//
// Whoever brings the state can at most have opened what a driver can open itself.
extension FileSystem {
    /// How long files are opened before the driver goes on; the others are when they are asked for.
    private static let openingSpan: UInt64 = 1_500_000_000

    /// What another process needs to go on. Locks are given back for it: two processes cannot have
    /// them. No queue runs.
    func save() -> [UInt8] {
        var writer = FolderState.Writer(rootInode: nodes.root.key.inode, abilities: agreed)
        do {
            writer = try onThreadOfFiles { [self, writer] in
                var writer = writer
                nodes.save(&writer)
                save(handles.snapshot, &writer)
                return writer
            }
        } catch {
            fsLog(.error, "another process will not know what the guest has open: \(error)")
            return []
        }
        return writer.bytes
    }

    private func save(_ open: SlotIDs<OpenFile>, _ writer: inout FolderState.Writer) {
        writer.putCount(open.slotCount)
        for index in 0..<open.slotCount {
            let file = open[slot: index]?.item
            writer.put(
                file.map { file in
                    let flags = file.isLost ? 0 : clinux_fcntl(file.fd, F_GETFL, 0)
                    return SavedFile(
                        nodeID: file.nodeID, kind: file.kind,
                        flags: max(flags, 0) & SavedFile.keptFlags, lockOwner: file.lockOwner,
                        held: file.held.withLock { $0 })
                }, generation: open.generation(slot: index))
            file?.unlockHeld()
        }
    }

    /// No other process has taken over after `save`.
    func takeLocksAgain() {
        lock(handles.snapshot)
    }

    private func lock(_ open: SlotIDs<OpenFile>) {
        var lost = 0
        open.forEach { _, file in
            if !file.isLost, !file.lockHeld() { lost += 1 }
        }
        if lost > 0 {
            fsLog(
                .warning, "\(lost) files are locked by others which a guest's programs had locked")
        }
    }

    /// Goes on with what `save` gave. No queue runs.
    /// - Throws: what is wrong with it, or why nothing can be done; then nothing is changed.
    func load(_ bytes: [UInt8]) throws {
        guard ledger == nil else { throw BackendError("what is known comes from a ledger") }
        var reader = try FolderState.Reader(bytes)
        guard reader.rootInode == nodes.root.key.inode else {
            throw BackendError("it is that of another folder than \(options.path)")
        }
        let known = try nodes.read(&reader)
        let open = try readFiles(&reader)
        try reader.finish()
        agreed = reader.abilities
        nodes.replace(with: known)
        watch?.endAll()
        watch?.fallBehind()
        try onThreadOfFiles { [self] in
            let deadline = Clock.monotonic() + Self.openingSpan
            // As a rule files that are removed or replaced, and that the driver will forget.
            let gone = nodes.openAll(until: deadline)
            if gone > 0 { fsLog(.info, "\(gone) files that the guest knows are not found again") }
            var table = handles.empty
            for (generation, file) in open {
                table.restore(file.map(opened), generation: generation)
            }
            handles.replace(with: table)
            locks.reload()
            lock(table)
            var lost = 0
            table.forEach { _, file in if file.isLost { lost += 1 } }
            if lost > 0 {
                fsLog(
                    .warning,
                    "\(lost) files that the guest has open are not found again, and stale for it")
            }
        }
    }

    private func readFiles(
        _ reader: inout FolderState.Reader
    ) throws(VirtioDeviceError) -> [(UInt32, SavedFile?)] {
        let count = try reader.count(limit: Ledger.handleLimit)
        var files: [(UInt32, SavedFile?)] = []
        for _ in 0..<count { files.append(try reader.file()) }
        return files
    }

    private func opened(_ saved: SavedFile) -> OpenFile {
        do throws(FUSEError) {
            let node = try nodes.node(saved.nodeID)
            let file = OpenFile(
                try open(saved, node), nodeID: saved.nodeID, saved.kind,
                appends: saved.flags & O_APPEND != 0,
                isLocal: node.key.device == localDevice, lockOwner: saved.lockOwner)
            file.held.withLock { $0 = saved.held }
            // It is not known where the folder's descriptor stood.
            file.position.withLock { $0 = .max }
            return file
        } catch {
            return .lost(saved.nodeID, saved.kind, saved.lockOwner)
        }
    }

    private func open(_ saved: SavedFile, _ node: Node) throws(FUSEError) -> OwnedFD {
        switch saved.kind {
        case CLINUX_HANDLE_FOLDER:
            guard node.isFolder else { throw .stale }
            return OwnedFD(
                owning: try fuseChecking(
                    unsafe clinux_open_beneath(node.fd, ".", O_RDONLY | O_DIRECTORY, 0)))
        case CLINUX_HANDLE_LOCKS: return try FSWorker.openForLocks(node)
        default: return try reopen(node, saved.flags)
        }
    }

    /// Opens a file that the driver has open, also if its mode has changed since.
    private func reopen(_ node: Node, _ flags: Int32) throws(FUSEError) -> OwnedFD {
        let access = flags & O_ACCMODE
        guard node.isRegular, access != O_ACCMODE, access == O_RDONLY || !options.isReadOnly else {
            throw .stale
        }
        var result = clinux_reopen(node.fd, flags)
        if result == -EACCES, !options.isReadOnly, let mode = try? node.status().mode {
            try fuseChecking(clinux_change_mode(node.fd, mode & 0o7777 | 0o600))
            result = clinux_reopen(node.fd, flags)
            _ = clinux_change_mode(node.fd, mode & 0o7777)
        }
        return OwnedFD(owning: try fuseChecking(result))
    }

    /// Has a thread of its own work with files, as the control thread does not (FSQueue.swift).
    private func onThreadOfFiles<R>(_ body: @escaping () -> R) throws -> R {
        let work = Work(body)
        let thread = try Thread(name: "state", stackSize: 1 << 20) { [self] in
            if FSQueue.enterDescriptors(of: self) { work.run() }
        }
        thread.join()
        guard let result = work.result else { throw BackendError("a thread could not begin") }
        return result
    }

    // SAFETY: for `@unchecked Sendable`: one thread waits for the other.
    private final class Work<R>: @unchecked Sendable {
        private let body: () -> R
        private(set) var result: R?

        init(_ body: @escaping () -> R) { self.body = body }

        func run() { result = body() }
    }
}
