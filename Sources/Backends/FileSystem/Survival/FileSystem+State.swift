internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

// How a process that shares the folder later goes on with what the driver knows and has open. A
// program that was started by itself has no keeper (Keeper.swift), so the next one opens all files
// anew: each by its name in a folder that is known as well, by its path in the shared folder if it
// was moved to one that is not, or by its handle where the process has the right to open such. What
// cannot be found, or is another file by now, is stale for the driver, and nothing else is. Unless
// the user wants that (migration-on-error), a state with such files that are open is refused: best by
// who saves it, because a front end may have let go of the guest when somebody else loads it.
//
// Whoever brings the state can at most have opened what a driver can open itself.
extension FileSystem {
    /// How long files are opened before the driver goes on; the others are when they are asked for.
    private static let openingSpan: UInt64 = 1_500_000_000

    /// What another process needs to go on. Locks are given back for it: two processes cannot have
    /// them. No queue runs.
    /// - Throws: it is too large, or others would not find all that is open; then nothing is given back.
    func save(limit: Int = FolderState.sizeLimit) throws -> [UInt8] {
        try onThreadOfFiles { [self] in
            var writer = FolderState.Writer(
                rootInode: nodes.root.key.inode, abilities: agreed, limit: limit)
            let open = handles.snapshot
            let lost = try nodes.save(&writer)
            try check(open, lost)
            try save(open, &writer)
            try save(mappings?.all ?? [], &writer)
            open.forEach { _, file in
                if !file.isLost { file.unlockHeld() }
            }
            return writer.bytes
        }
    }

    private func check(
        _ open: SlotIDs<OpenFile>, _ lost: Set<UInt64>
    ) throws(VirtioDeviceError) {
        guard options.migrationError == .abort else { return }
        var count = 0
        open.forEach { _, file in
            if !file.isLost, lost.contains(file.nodeID) { count += 1 }
        }
        guard count == 0 else {
            throw VirtioDeviceError(
                "\(count) files that the guest has open are removed, and nobody else could open them;"
                    + " close them, or give migration-mode=file-handles, or"
                    + " migration-on-error=guest-error to go without them")
        }
    }

    private func save(
        _ open: SlotIDs<OpenFile>, _ writer: inout FolderState.Writer
    ) throws(VirtioDeviceError) {
        writer.putCount(open.slotCount)
        for index in 0..<open.slotCount {
            let file = open[slot: index]?.item
            writer.put(
                file.map { file in
                    let flags = file.isLost ? SavedFile.lost : clinux_fcntl(file.fd, F_GETFL, 0)
                    return SavedFile(
                        nodeID: file.nodeID, kind: file.kind,
                        flags: max(flags, 0) & SavedFile.keptFlags, lockOwner: file.lockOwner,
                        held: file.held.withLock { $0 })
                }, generation: open.generation(slot: index))
            try writer.checkSize()
        }
    }

    private func save(
        _ mappings: [MappingTable.Mapping], _ writer: inout FolderState.Writer
    ) throws(VirtioDeviceError) {
        writer.putCount(mappings.count)
        for mapping in mappings { writer.put(mapping) }
        try writer.checkSize()
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
    /// - Throws: what is wrong with it, or why nothing can be done; then nothing is changed, or, if
    ///   open files are not found, nothing is known.
    func load(_ bytes: [UInt8]) throws {
        guard ledger == nil else { throw BackendError("what is known comes from a ledger") }
        var reader = try FolderState.Reader(bytes)
        guard reader.rootInode == nodes.root.key.inode else {
            throw BackendError("it is that of another folder than \(options.path)")
        }
        // What gives the guest rights is not in the hand of whoever brings the state.
        let labels = FUSEAbilities.securityLabels.rawValue
        guard options.takesLabels || reader.abilities & labels == 0 else {
            throw BackendError(
                "the guest sets security labels, and this program does not let it; give"
                    + " security-label=on as the program before")
        }
        let known = try nodes.read(&reader)
        let open = try readFiles(&reader)
        let mapped = try readMappings(&reader)
        try reader.finish()
        agreed = reader.abilities
        nodes.replace(with: known)
        mappings?.replace(with: mapped)
        watch?.endAll()
        watch?.fallBehind()
        try onThreadOfFiles { [self] in
            let deadline = Clock.monotonic() + Self.openingSpan
            // As a rule files that are removed or replaced, and that the driver will forget.
            let gone = nodes.openAll(until: deadline)
            if gone > 0 { fsLog(.info, "\(gone) files that the guest knows are not found again") }
            var table = handles.empty
            var lost = 0
            for (generation, saved) in open {
                let file = saved.map(opened)
                if file?.isLost == true, saved?.isLost == false { lost += 1 }
                table.restore(file, generation: generation)
            }
            try report(lost)
            handles.replace(with: table)
            locks.reload()
            lock(table)
        }
    }

    /// - Throws: the guest is not to lose them.
    private func report(_ lost: Int) throws {
        if lost == 0 { return }
        let text =
            "\(lost) files that the guest has open are not found again, or may not be opened by this"
            + " user"
        guard options.migrationError == .abort else {
            return fsLog(.warning, "\(text), and stale for it")
        }
        end()
        throw BackendError("\(text); give migration-on-error=guest-error to go without them")
    }

    private func readMappings(
        _ reader: inout FolderState.Reader
    ) throws(VirtioDeviceError) -> [MappingTable.Mapping] {
        let count = try reader.count(limit: Ledger.mappingLimit)
        if count == 0 { return [] }
        guard let window = mappings?.size else {
            throw VirtioDeviceError(
                "the guest has mapped files into a window, and there is none; give cache-size as "
                    + "the program before")
        }
        var known: [MappingTable.Mapping] = []
        for _ in 0..<count {
            known.append(try reader.mapping(after: known.last?.end ?? 0, in: window))
        }
        return known
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
            if saved.isLost { throw .stale }
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
            let folder = OwnedFD(
                owning: try fuseChecking(
                    unsafe clinux_open_beneath(node.fd, ".", O_RDONLY | O_DIRECTORY, 0)))
            Self.beginReading(folder.rawValue)
            return folder
        case CLINUX_HANDLE_LOCKS: return try FSWorker.openForLocks(node)
        default: return try reopen(node, saved.flags)
        }
    }

    /// Reads something of a folder that the driver may be in the midst of. If the first that is read
    /// of a descriptor is what comes at the end, ext4 (Linux 6.18) says that there is nothing at the
    /// beginning either, once.
    private static func beginReading(_ fd: Int32) {
        let size = 1024
        // SAFETY: the buffer has as many bytes as the call is told.
        unsafe withUnsafeTemporaryAllocation(byteCount: size, alignment: 16) { buffer in
            if let start = buffer.baseAddress { _ = unsafe clinux_read_folder(fd, start, size) }
        }
    }

    /// Opens a file that the driver has open. Its mode may forbid that by now, or has from the
    /// beginning (O_CREAT with 0444); root passes over modes. Anybody else could only change the mode
    /// for a moment, which others would see, and which would stay if this process were killed in that
    /// moment. The file is stale instead.
    private func reopen(_ node: Node, _ flags: Int32) throws(FUSEError) -> OwnedFD {
        let access = flags & O_ACCMODE
        guard node.isRegular, access != O_ACCMODE, access == O_RDONLY || !options.isReadOnly else {
            throw .stale
        }
        return OwnedFD(owning: try fuseChecking(clinux_reopen(node.fd, flags)))
    }

    /// Has a thread of its own work with files, as the control thread does not (FSQueue.swift).
    private func onThreadOfFiles<R>(_ body: @escaping () throws -> R) throws -> R {
        let work = Work(body)
        let thread = try Thread(name: "state", stackSize: 1 << 20) { [self] in
            if FSQueue.enterDescriptors(of: self) { work.run() }
        }
        thread.join()
        guard let result = work.result else { throw BackendError("a thread could not begin") }
        return try result.get()
    }

    // SAFETY: for `@unchecked Sendable`: one thread waits for the other.
    private final class Work<R>: @unchecked Sendable {
        private let body: () throws -> R
        private(set) var result: Result<R, any Error>?

        init(_ body: @escaping () throws -> R) { self.body = body }

        func run() { result = Result(catching: body) }
    }
}
