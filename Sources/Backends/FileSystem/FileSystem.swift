internal import CLinux
internal import Core
internal import Glibc
internal import Synchronization
internal import VhostUser

/// A shared folder with all that drivers know of it: what the queues of a device have in common.
/// It outlives connections and resets, so a driver that goes on finds its files again; one that
/// begins anew (INIT) finds none.
final class FileSystem: Sendable {
    let options: FSOptions
    let nodes: NodeTable
    let handles: HandleTable
    let locks: LockTable
    /// What is mapped into the window, if there is one.
    let mappings: MappingTable?
    let waits = LockWaits()
    let windows: FileWindow.Pool
    /// /proc, where threads find the process's own descriptors.
    let proc: SharedFD
    /// The device of the shared folder itself, if it lies in one of the host's own file systems.
    let localDevice: UInt64
    /// Whether what users create is given to them; otherwise all is our own user's.
    let setsUsers: Bool
    /// What the queues' threads restrict themselves with.
    let queueFilter: SeccompFilter?
    /// What was agreed on in INIT.
    private let abilities: Atomic<UInt64>
    /// What the host's own programs change, if drivers may ask.
    let watch: FolderWatch?
    /// Where all this is noted for another process, if there can be one.
    let ledger: Ledger?

    /// - Parameters:
    ///   - files: what `SharedFolder.open` has opened.
    ///   - fileHandles: by what files are found again, if not by name.
    ///   - ledger: what an earlier process has noted, with descriptors of this one.
    init(
        _ files: SharedFolder, _ options: FSOptions, queueFilter: SeccompFilter? = nil,
        ledger: Ledger? = nil, fileHandles: FileHandles? = nil
    ) throws(BackendError) {
        self.options = options
        watch = options.notifies ? try FolderWatch() : nil
        self.ledger = ledger
        abilities = Atomic(ledger?.abilities ?? 0)
        // Rings, connections and what is being done take some as well.
        let limit = Int(clamping: min(clinux_descriptor_limit(), options.descriptorLimit))
        handles = HandleTable(ledger, limit: max(limit / 4 - 128, 16))
        locks = LockTable(handles)
        mappings = options.cacheSize > 0 ? MappingTable(size: options.cacheSize, ledger) : nil
        self.queueFilter = queueFilter
        proc = files.proc
        do {
            windows = try FileWindow.Pool()
        } catch {
            throw BackendError("no descriptor for what files lose: \(error.reason)")
        }
        setsUsers = clinux_may_set_users() != 0
        do {
            let status = try FileStatus.of(files.folder.rawValue)
            let root = Node(try files.folder.duplicate(), status)
            localDevice = FileWindow.suits(root.fd) ? root.key.device : .max
            nodes = NodeTable(
                root: root, ledger, fileHandles,
                openLimit: max(limit / 2 + limit / 8, 16),
                takesNameless: options.migrationMode == .fileHandles)
        } catch {
            throw BackendError("the folder \(options.path) cannot be shared: \(error)")
        }
    }

    /// Begins a session: what earlier ones knew is forgotten.
    func begin(_ agreed: FUSEAbilities) {
        end()
        abilities.store(agreed.rawValue, ordering: .relaxed)
        ledger?.abilities = agreed.rawValue
        ledger?.forgetTasks()
    }

    /// Ends a session.
    func end() {
        mappings?.removeAll()
        locks.removeAll()
        handles.removeAll()
        waits.retry()
        nodes.removeAll()
        watch?.endAll()
    }

    /// What was agreed on in INIT, as it goes to another process and comes from one.
    var agreed: UInt64 {
        get { abilities.load(ordering: .relaxed) }
        set { abilities.store(newValue, ordering: .relaxed) }
    }

    func has(_ ability: FUSEAbilities) -> Bool {
        abilities.load(ordering: .relaxed) & ability.rawValue != 0
    }

    /// How long a driver may believe names and attributes.
    var validity: FUSEValidity {
        switch options.cache {
        case .never: .none
        case .auto: FUSEValidity(seconds: 1)
        case .metadata, .always: FUSEValidity(seconds: 86400)
        }
    }
}
