internal import CCapNG
internal import CLinux
internal import Glibc

/// Locks this process in, before it reads a byte from a guest, a socket or an image: what it needs
/// is open by then. As far as the host allows; what it does not allow is said at level `info`.
package struct Sandbox {
    static let log = Log("sandbox")

    package let options: SandboxOptions
    /// The name in reports.
    let program: String
    /// The most descriptors that the process needs; the rest is out of reach for a peer that
    /// sends many.
    let descriptorLimit: UInt64

    package init(_ options: SandboxOptions, program: String, descriptorLimit: UInt64) {
        self.options = options
        self.program = program
        self.descriptorLimit = descriptorLimit
    }

    /// Whom the process may send signals to, by Landlock.
    package enum Signals: Sendable {
        case anybody
        /// Processes that are restricted like this one, which are its children.
        case ownKind
    }

    /// Does it all. The process must have one thread. Threads that are started later begin with
    /// the same rights, and can give up more (`SeccompFilter`).
    /// - Parameters:
    ///   - visible: folders that the process goes on to see, for the sockets in them; absolute
    ///     paths without links.
    ///   - shared: the namespaces of another process of the machine, to enter instead of own ones.
    ///     They cost a good part of a millisecond to make, and show no folders.
    ///   - folders: open folders below which the process goes on to do as it likes. For that, root
    ///     keeps `fileCapabilities`.
    ///   - opensHandles: files there are opened by their handles as well.
    ///   - share: is given the process's own namespaces, if it is in all of them.
    package func enter(
        _ rules: SystemCallRules, visible: [String] = [], shared: Namespaces? = nil,
        folders: [SharedFD] = [], opensHandles: Bool = false, signals: Signals = .ownKind,
        share: ((Namespaces?) -> Void)? = nil
    ) throws(SandboxError) {
        // Made first: that takes files which are out of sight later.
        let filter = try SeccompFilter(rules, options.seccomp)
        // The library may think of the process that this one is a copy of.
        capng_setpid(0)
        capng_clear(CAPNG_SELECT_CAPS)
        clinux_limit_arenas()
        var own: Namespaces?
        if options.isolation == .on, !visible.isEmpty || shared?.join() != true {
            own = leaveHost(
                visible, opensNamespaces: share != nil, keepsUsers: !folders.isEmpty)
        }
        share?(own)
        if options.isolation == .chroot { try changeRoot(folders.first) }
        let kept =
            !folders.isEmpty && geteuid() == 0
            ? Self.keepFileCapabilities(opensHandles: opensHandles && !hasOwnUsers) : 0
        try dropPrivileges(kept: kept)
        if options.isolation != .off { restrictFiles(folders, signals) }
        guard let filter else { return }
        // SAFETY: the string is copied.
        _ = unsafe clinux_report_forbidden_calls(program)
        try filter.load()
    }

    /// The process is in a user namespace of its own.
    private var hasOwnUsers: Bool {
        options.isolation == .on || options.isolation == .inherited
    }

    /// Makes a folder the root: the one that is served, or one without files.
    private func changeRoot(_ folder: SharedFD?) throws(SandboxError) {
        let code = clinux_change_root(folder?.rawValue ?? -1)
        guard code != 0 else { return }
        throw SandboxError(
            "--sandbox chroot: the root cannot be changed: \(SystemError("", errno: -code).reason); "
                + "as an ordinary user give --sandbox on")
    }

    /// What root needs to work with files of all users: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID,
    /// SETUID, MKNOD and SETFCAP.
    private static let fileCapabilities: [UInt32] = [0, 1, 3, 4, 6, 7, 27, 31]

    /// Has `capng_apply` keep those of them that the process has.
    /// - Parameter opensHandles: DAC_READ_SEARCH as well, which opens files by their handles. It counts
    ///   in the host's user namespace only, so it is of no use in one of our own.
    /// - Returns: a bit for each that is kept, for the bounding set.
    private static func keepFileCapabilities(opensHandles: Bool) -> UInt64 {
        let permitted = clinux_permitted_capabilities()
        let sets = capng_type_t(CAPNG_EFFECTIVE.rawValue | CAPNG_PERMITTED.rawValue)
        let wanted = opensHandles ? fileCapabilities + [2] : fileCapabilities
        var kept: UInt64 = 0
        for capability in wanted where permitted & 1 << UInt64(capability) != 0 {
            _ = capng_update(CAPNG_ADD, sets, capability)
            kept |= 1 << UInt64(capability)
        }
        return kept
    }

    /// - Parameter keepsUsers: files of all users are worked with.
    /// - Returns: the new namespaces, if the host gave all of them and `opensNamespaces` is set.
    private func leaveHost(
        _ visible: [String], opensNamespaces: Bool, keepsUsers: Bool
    ) -> Namespaces? {
        let userCode =
            keepsUsers && geteuid() == 0
            ? clinux_enter_user_namespace_of_all() : clinux_enter_user_namespace()
        if userCode != 0 { Self.note("a user namespace", "unshare", userCode) }
        var code = clinux_enter_other_namespaces()
        guard code == 0 else {
            Self.note("namespaces", "unshare", code)
            return nil
        }
        // Later /proc is out of sight.
        let namespaces = opensNamespaces && userCode == 0 ? Namespaces.open() : nil
        var step: UnsafePointer<CChar>?
        let folders = Self.outermost(visible)
        code = unsafe withCStrings(folders) { unsafe clinux_empty_root($0, folders.count, &step) }
        guard code == 0 else {
            // SAFETY: a string constant.
            let call = unsafe step.map { unsafe String(cString: $0) } ?? ""
            Self.note("an empty root", call, code)
            return nil
        }
        return namespaces
    }

    /// The folders that are inside no other.
    static func outermost(_ folders: [String]) -> [String] {
        let all = Set(folders)
        return all.filter { folder in
            !all.contains { $0 != folder && folder.hasPrefix($0 + "/") }
        }.sorted()
    }

    private static func note(_ what: String, _ call: String, _ code: Int32) {
        let reason = SystemError("", errno: -code).reason
        log(.info, "the host does not give this process \(what): \(call): \(reason)")
    }

    private func dropPrivileges(kept: UInt64) throws(SandboxError) {
        // A process without the right to do that has been given an empty bounding set, or has no use
        // for a full one, because no program can give it privileges any more. The library would ask
        // for each of its bits three times. Ambient capabilities go with those they come from.
        clinux_limit_bounding_set(kept)
        guard capng_apply(CAPNG_SELECT_CAPS) == 0 else {
            throw SandboxError("the process's capabilities cannot be dropped")
        }
        guard clinux_forbid_new_privileges() == 0, clinux_hide_process() == 0 else {
            throw SandboxError("the process cannot be kept from new privileges")
        }
        // No image of memory that holds the guest's secrets.
        _ = clinux_limit(Int32(bitPattern: RLIMIT_CORE.rawValue), 0)
        _ = clinux_limit(Int32(bitPattern: RLIMIT_NOFILE.rawValue), descriptorLimit)
    }

    private func restrictFiles(_ folders: [SharedFD], _ signals: Signals) {
        // SAFETY: the array lives for the call.
        let version = unsafe clinux_landlock(
            folders.map(\.rawValue), folders.count,
            signals == .anybody ? CLINUX_LANDLOCK_SIGNALS_FREE : CLINUX_LANDLOCK_SIGNALS_KEPT)
        if version == 0 {
            Self.log(.info, "the host's kernel has no Landlock")
        } else if version < 0 {
            Self.note("Landlock", "landlock", version)
        }
    }
}
