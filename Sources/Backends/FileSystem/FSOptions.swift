package import Core

/// How a folder is to be shared. The names are virtiofsd's where it has them.
package struct FSOptions: Equatable, Sendable {
    /// What a driver may keep in memory.
    package enum Cache: String, CaseIterable, Sendable {
        /// Nothing; every access comes here.
        case never
        /// Names and attributes for a day, but no data.
        case metadata
        /// Names and attributes for a second, data until the file is opened again.
        case auto
        /// Everything: nobody else changes the folder.
        case always
    }

    /// Whether files that are known and not open are found again by their handles.
    package enum FileHandles: String, CaseIterable, Sendable {
        case never, prefer, mandatory
    }

    /// How another process finds what the guest knows, if it has no name any more.
    package enum MigrationMode: String, CaseIterable, Sendable {
        case findPaths = "find-paths"
        case fileHandles = "file-handles"
    }

    /// What becomes of a state if the guest has files open that are not found again.
    package enum MigrationError: String, CaseIterable, Sendable {
        /// It is refused, and the guest stays where it is.
        case abort
        /// They are stale for the guest.
        case guestError = "guest-error"
    }

    package var path: String
    /// What a guest mounts; `nil`: the front end says.
    package var tag: String?
    package var isReadOnly = false
    package var cache = Cache.auto
    package var queueCount = 4
    package var maximumQueueSize: UInt16 = 1024
    /// How long a queue's thread looks for requests before it sleeps, at most.
    package var pollMicroseconds = IdlePolling.usualMicroseconds
    /// Drivers that want it are told what the host's own programs change.
    package var notifies = false
    /// Threads that do what takes long, besides those of the queues.
    package var helperCount = 0
    /// The most descriptors that are open at a time, about.
    package var descriptorLimit: UInt64 = 1 << 20
    package var fileHandles = FileHandles.never
    package var migrationMode = MigrationMode.findPaths
    package var migrationError = MigrationError.abort
    package var hasExtendedAttributes = false
    package var hasAccessLists = false
    /// Guests' kernels send the security labels of what they make.
    package var takesLabels = false
    /// A guest keeps what is written, and writes it later.
    package var writesBack = false
    package var announcesSubmounts = true
    /// Whom the guest's users and groups are on the host.
    package var users = IDMap()
    package var groups = IDMap()
    /// What attributes are called on the host; `nil`: the same.
    package var attributeMap: AttributeMap?
    /// Record locks are the host's; otherwise each guest has its own.
    package var hasPosixLocks = false
    /// The same for locks of whole files.
    package var hasFileLocks = false
    /// The size of the window into which guests map files, in bytes; 0: there is none.
    package var cacheSize: UInt64 = 0
    var hasLocks: Bool { hasPosixLocks || hasFileLocks }

    /// The tag has this many bytes on the wire (VIRTIO 1.3, section 5.11.4).
    package static let tagSize = 36

    package init(path: String) { self.path = path }

    private enum Keys {
        static let path = OptionKey.required("path", .path, help: "the folder to share")
        static let tag = OptionKey<String?>(
            "tag", .text("TEXT"),
            help: "the name by which guests mount it, at most \(tagSize) bytes; other front ends "
                + "than apus may have an option of their own for it")
        static let readOnly = OptionKey("readonly", .bool, default: false, help: "refuse changes")
        static let cache = OptionKey(
            "cache", .choice(Cache.self), default: .auto,
            help: "what a guest keeps in its memory: never: nothing; metadata: names and "
                + "attributes; auto: those for a second, and data until a file is opened; "
                + "always: everything, nobody else changes the folder")
        static let queueCount = OptionKey(
            "num-queues", .integer(1...64), default: 4,
            help: "most queues for requests that a driver may use, each with a thread")
        static let queueSize = OptionKey(
            "queue-size", .integer(2...1024), default: 1024, help: "most entries in a queue")
        static let poll = OptionKey(
            "poll-us", .integer(0...1000), default: IdlePolling.usualMicroseconds,
            help: "how long to look for requests before sleeping, in microseconds: at most, or "
                + "ten times that where it halves the wait")
        static let notifications = OptionKey(
            "notifications", .bool, default: false,
            help:
                "tell drivers that ask for it (VIRTIO_FS_F_NOTIFICATION; not Linux's up to now) what "
                + "the host's own programs change, so that they need not go by time")
        static let helpers = OptionKey(
            "thread-pool-size", .integer(0...64), default: 0,
            help: "threads that read what the host has not in memory, write out to disks and the "
                + "like, while the queues go on with other requests; 0: the queues' own threads do")
        static let descriptors = OptionKey(
            "rlimit-nofile", .integer(128...1 << 20), default: 1 << 20,
            help: "most files that are kept open, if the process may have so many; files that a "
                + "guest knows besides are found again by name")
        static let fileHandles = OptionKey(
            "inode-file-handles", .choice(FileHandles.self), default: .never,
            help: "find such files again by what the file system calls them, also when the host "
                + "has moved them; only for root with --sandbox chroot or off: prefer: where that "
                + "can be; mandatory: or not at all")
        static let migrationMode = OptionKey(
            "migration-mode", .choice(MigrationMode.self), default: .findPaths,
            help: "how files are found again that a migrating guest has open: find-paths: by their "
                + "names; file-handles: those that are removed, too, by what the file system calls "
                + "them, which takes inode-file-handles on both sides, and gives whoever brings the "
                + "guest's state all removed files of the file system that are still open")
        static let migrationError = OptionKey(
            "migration-on-error", .choice(MigrationError.self), default: .abort,
            help:
                "if a migrating guest has files open that are not found again: abort: it does not "
                + "migrate; guest-error: it does, and cannot use those")
        static let xattr = OptionKey(
            "xattr", .bool, default: false, help: "serve extended attributes")
        static let accessLists = OptionKey(
            "posix-acl", .bool, default: false,
            help: "let guests keep and check POSIX ACLs, which are extended attributes")
        static let labels = OptionKey(
            "security-label", .bool, default: false,
            help: "give files the security labels (security.selinux and the like) that a guest's "
                + "kernel sends with what it makes; with xattr=on, and mostly an xattrmap")
        static let writeback = OptionKey(
            "writeback", .bool, default: false,
            help: "let guests keep for a while what is written; with cache=auto or always, and if "
                + "nobody else changes the files")
        static let submounts = OptionKey(
            "announce-submounts", .bool, default: true,
            help: "let guests see the bounds of file systems that are mounted in the folder")
        static let posixLocks = OptionKey(
            "posix-lock", .bool, default: false,
            help: "keep record locks (fcntl) on the host, where other machines and programs see "
                + "them; Linux lets only SIGKILL end a guest program's wait for one")
        static let fileLocks = OptionKey(
            "flock", .bool, default: false,
            help: "keep locks of whole files (flock) on the host as well")
        static let cacheSize = OptionKey(
            "cache-size", .size, default: 0,
            help: "give guests a window of that size (DAX), through which their processors use the "
                + "host's own memory of files; each GiB takes 16 MiB of a guest's memory")
        static let attributeMap = OptionKey<String?>(
            "xattrmap", .text("RULES"),
            help: "what guests' extended attributes are called on the host, with virtiofsd's "
                + "rules: :prefix:all::user.virtiofs.::bad:all::: or :map::user.virtiofs.:")
        static let users = OptionKey(
            "translate-uid", .list(of: .text("RULE")), default: [],
            help: "whom guests' users are on the host, with virtiofsd's rules: map:0:1000:1, and "
                + "guest, host, squash-guest, squash-host, forbid-guest:FROM:COUNT")
        static let groups = OptionKey(
            "translate-gid", .list(of: .text("RULE")), default: [],
            help: "the same for groups")
    }

    package static let schema = OptionSchema(
        "fs", leadingKey: "path",
        keys: [
            Keys.path.any, Keys.tag.any, Keys.readOnly.any, Keys.cache.any, Keys.queueCount.any,
            Keys.queueSize.any, Keys.poll.any, Keys.helpers.any, Keys.notifications.any,
            Keys.descriptors.any,
            Keys.fileHandles.any, Keys.migrationMode.any, Keys.migrationError.any,
            Keys.cacheSize.any,
            Keys.xattr.any,
            Keys.accessLists.any, Keys.labels.any,
            Keys.writeback.any, Keys.submounts.any, Keys.posixLocks.any, Keys.fileLocks.any,
            Keys.attributeMap.any, Keys.users.any, Keys.groups.any,
        ])

    /// Takes what `schema` has parsed.
    package init(_ values: OptionValues) throws(OptionError) {
        self.init(path: values[Keys.path])
        tag = values[Keys.tag]
        isReadOnly = values[Keys.readOnly]
        cache = values[Keys.cache]
        queueCount = Int(clamping: values[Keys.queueCount])
        maximumQueueSize = UInt16(clamping: values[Keys.queueSize])
        pollMicroseconds = values[Keys.poll]
        notifies = values[Keys.notifications]
        helperCount = Int(clamping: values[Keys.helpers])
        descriptorLimit = values[Keys.descriptors]
        fileHandles = values[Keys.fileHandles]
        migrationMode = values[Keys.migrationMode]
        migrationError = values[Keys.migrationError]
        hasExtendedAttributes = values[Keys.xattr]
        hasAccessLists = values[Keys.accessLists]
        takesLabels = values[Keys.labels]
        writesBack = values[Keys.writeback]
        announcesSubmounts = values[Keys.submounts]
        hasPosixLocks = values[Keys.posixLocks]
        hasFileLocks = values[Keys.fileLocks]
        cacheSize = values[Keys.cacheSize]
        do throws(OptionError) {
            users = try IDMap(values[Keys.users])
        } catch {
            throw error.inside("translate-uid")
        }
        do throws(OptionError) {
            groups = try IDMap(values[Keys.groups])
        } catch {
            throw error.inside("translate-gid")
        }
        if let rules = values[Keys.attributeMap] {
            guard hasExtendedAttributes else {
                throw OptionError("xattrmap: there are no attributes to map; add xattr=on")
            }
            attributeMap = try AttributeMap(rules)
        }
        try check()
    }

    private func check() throws(OptionError) {
        guard !hasAccessLists || (users.isEmpty && groups.isEmpty) else {
            throw OptionError(
                "posix-acl: ACLs name users, which translate-uid and translate-gid do not change")
        }
        guard hasExtendedAttributes || !hasAccessLists else {
            throw OptionError("posix-acl: ACLs are extended attributes; add xattr=on")
        }
        guard hasExtendedAttributes || !takesLabels else {
            throw OptionError("security-label: labels are extended attributes; add xattr=on")
        }
        guard !writesBack || cache == .auto || cache == .always else {
            throw OptionError(
                "writeback: with cache=\(cache.rawValue) guests keep no data; use auto or always")
        }
        guard migrationMode == .findPaths || fileHandles != .never else {
            throw OptionError(
                "migration-mode: to open files by handles takes inode-file-handles=mandatory or prefer"
            )
        }
        // What Linux's driver maps at a time.
        guard cacheSize % (2 << 20) == 0, cacheSize <= DeviceWindow.maximumSize else {
            throw OptionError(
                "cache-size: a window has a multiple of 2M, and at most "
                    + "\(DeviceWindow.maximumSize >> 30)G")
        }
        try Self.check(tag: tag)
    }

    static func check(tag: String?) throws(OptionError) {
        guard let tag else { return }
        guard !tag.isEmpty, !tag.utf8.contains(0), tag.utf8.count <= tagSize else {
            throw OptionError("tag: '\(tag)' does not have 1 to \(tagSize) bytes")
        }
    }
}
