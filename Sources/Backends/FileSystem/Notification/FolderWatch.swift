internal import CLinux
internal import Core
internal import Glibc
internal import Synchronization
internal import VhostUser

/// Sees what the host's own programs change in the folders in which the driver has looked up names
/// (inotify(7)). What drivers change through this process is seen in the same way, so that is noted
/// here before it is done, and left out.
final class FolderWatch: Sendable {
    /// How many folders are watched at most. Those that are known first are.
    static let limit = 8192
    /// For how long, in nanoseconds, it is the driver who has changed a file that it has just changed.
    private static let ownSpan: UInt64 = 20_000_000
    /// How many changes are waited for at most.
    private static let expectedLimit = 256
    private static let searchInterval: UInt64 = 1_000_000_000

    private struct Name: Hashable {
        let folder: UInt64
        let text: [UInt8]

        init(folder: UInt64, text: [UInt8]) {
            self.folder = folder
            self.text = text
        }

        init(_ folder: UInt64, _ name: FUSEText) {
            self.folder = folder
            text = unsafe Array(
                UnsafeRawBufferPointer(start: name.pointer, count: strlen(name.pointer)))
        }
    }

    private struct State {
        /// The folders' numbers, by the numbers of their watches, and the reverse.
        /// A folder has several where it is mounted more than once, or known by an old number still.
        var folders: [Int32: [UInt64]] = [:]
        var watches: [UInt64: Int32] = [:]
        /// How often each of these names is about to be seen to change.
        var expected: [Name: Int] = [:]
        /// When these files were changed by the driver.
        var changed: [UInt64: UInt64] = [:]
        /// When forgotten folders were looked for.
        var lastSearch: UInt64 = 0
    }

    let inotify: OwnedFD
    private let state = Lock(State())
    private let wanted = Atomic<Bool>(false)
    private let isBehind = Atomic<Bool>(true)

    /// Whether somebody wants to know.
    var isActive: Bool {
        get { wanted.load(ordering: .relaxed) }
        set { wanted.store(newValue, ordering: .relaxed) }
    }

    /// What the driver knows may have changed while nobody watched.
    func fallBehind() { isBehind.store(true, ordering: .relaxed) }

    /// - Returns: whether that was so.
    func catchUp() -> Bool { isBehind.exchange(false, ordering: .relaxed) }

    init() throws(BackendError) {
        let result = clinux_inotify()
        guard result >= 0 else {
            let reason = SystemError("", errno: -result).reason
            throw BackendError("changes by the host cannot be seen: inotify: \(reason)")
        }
        inotify = OwnedFD(owning: result)
    }

    /// Watches a folder from now on. In threads that have entered their descriptors.
    /// - Parameter isKnown: whether the driver knows a folder still.
    func watch(_ id: UInt64, _ node: Node, isKnown: (UInt64) -> Bool) {
        guard isActive else { return }
        state.withLock { state in
            if state.watches[id] != nil { return }
            if state.watches.count >= Self.limit { endForgotten(&state, isKnown) }
            guard state.watches.count < Self.limit else { return }
            let watch = clinux_inotify_add(inotify.rawValue, node.fd)
            guard watch >= 0 else { return }
            state.watches[id] = watch
            state.folders[watch, default: []].append(id)
        }
    }

    /// The numbers of a watch's folder.
    func folders(of watch: Int32) -> [UInt64] { state.withLock { $0.folders[watch] ?? [] } }

    /// A folder need not be watched any more.
    func end(_ watch: Int32) {
        state.withLock { state in
            for id in state.folders[watch] ?? [] { end(id, &state) }
        }
    }

    /// A folder need not be watched by this number any more.
    func end(_ id: UInt64) { state.withLock { end(id, &$0) } }

    /// The driver begins anew.
    func endAll() {
        state.withLock { state in
            for id in Array(state.watches.keys) { end(id, &state) }
            state.expected = [:]
            state.changed = [:]
        }
    }

    private func end(_ id: UInt64, _ state: inout State) {
        guard let watch = state.watches.removeValue(forKey: id) else { return }
        let others = (state.folders[watch] ?? []).filter { $0 != id }
        state.folders[watch] = others.isEmpty ? nil : others
        if others.isEmpty { _ = clinux_inotify_remove(inotify.rawValue, watch) }
    }

    /// Makes room, now and then.
    private func endForgotten(_ state: inout State, _ isKnown: (UInt64) -> Bool) {
        let now = Clock.monotonic()
        guard now &- state.lastSearch > Self.searchInterval else { return }
        state.lastSearch = now
        for id in Array(state.watches.keys) where !isKnown(id) { end(id, &state) }
    }

    /// The driver is about to change what a name stands for.
    func expect(_ folder: UInt64, _ name: FUSEText) {
        guard isActive else { return }
        let key = Name(folder, name)
        state.withLock { state in
            guard state.watches[folder] != nil else { return }
            if state.expected.count >= Self.expectedLimit { state.expected = [:] }
            state.expected[key, default: 0] += 1
        }
    }

    /// The driver is about to change a file.
    func change(_ id: UInt64) {
        guard isActive else { return }
        let now = Clock.monotonic()
        state.withLock { state in
            if state.changed.count >= Self.expectedLimit { state.changed = [:] }
            state.changed[id] = now
        }
    }

    /// The driver has not changed it after all.
    func unexpect(_ folder: UInt64, _ name: FUSEText) { _ = take(Name(folder, name)) }

    /// Whether it was the driver who changed a name; it was so once for each time.
    func isOwn(_ folder: UInt64, _ name: [UInt8]) -> Bool { take(Name(folder: folder, text: name)) }

    private func take(_ name: Name) -> Bool {
        state.withLock { state in
            guard let count = state.expected[name] else { return false }
            state.expected[name] = count > 1 ? count - 1 : nil
            return true
        }
    }

    /// Whether it was probably the driver who changed a file.
    func isOwn(_ id: UInt64) -> Bool {
        state.withLock { state in
            // Later than all that others have noted.
            let now = Clock.monotonic()
            return state.changed[id].map { now - min($0, now) < Self.ownSpan } ?? false
        }
    }
}
