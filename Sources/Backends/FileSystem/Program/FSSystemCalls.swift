package import Core
internal import VhostUser

/// What the threads of a shared folder's process may ask of the kernel.
package enum FSSystemCalls {
    /// Those that serve queues. Names lead only to what lies in the shared folder: that is a
    /// mount of its own, or Landlock knows of nothing else.
    /// - Parameter sharesFiles: they send files to the front end, for it to map.
    package static func queue(
        opensHandles: Bool = false, notifies: Bool = false, sharesFiles: Bool = false
    ) -> SystemCallRules {
        var rules = SystemCallRules.base
        rules.add(.dataMemory)
        rules.add(files)
        if opensHandles { rules.add(handles) }
        if notifies { rules.add(watches) }
        if sharesFiles { rules.allow("sendmsg", "recvmsg") }
        return rules
    }

    /// To open files by their handles.
    static var handles: SystemCallRules {
        var rules = SystemCallRules()
        rules.allow("name_to_handle_at", "open_by_handle_at")
        return rules
    }

    /// To see what the host's own programs change.
    private static var watches: SystemCallRules {
        var rules = SystemCallRules()
        rules.allow("inotify_add_watch", "inotify_rm_watch")
        return rules
    }

    /// What options take of the control thread besides, which makes the others; `nil`: nothing.
    static func control(for options: FSOptions) -> SystemCallRules? {
        guard options.notifies || options.fileHandles != .never else { return nil }
        var rules = SystemCallRules()
        if options.fileHandles != .never { rules.add(handles) }
        if options.notifies {
            rules.add(watches)
            rules.allow("inotify_init1")
        }
        return rules
    }

    private static var files: SystemCallRules {
        var rules = SystemCallRules()
        rules.allow(
            "openat", "openat2", "statx", "fstatfs", "readlinkat", "getdents64", "mknodat",
            "mkdirat", "symlinkat", "linkat", "unlinkat", "renameat2", "fchmodat", "fchownat",
            "utimensat", "truncate", "ftruncate", "fsync", "fdatasync", "syncfs", "preadv",
            "preadv2", "pwritev", "pwritev2", "fallocate", "copy_file_range", "setxattr",
            "getxattr", "listxattr", "removexattr")
        rules.allow("flock", "mincore")
        rules.allow("fcntl", argument: 1, oneOf: [36])  // F_OFD_GETLK
        // Whose the new files are.
        rules.allow("setfsuid", "setfsgid", "capget", "capset", "umask")
        return rules
    }

    /// The control thread, which makes the others and talks to the front end.
    package static var control: SystemCallRules {
        var rules = SystemCallRules.backendControl
        rules.add(files)
        // What a queue's thread does first.
        rules.allow("fchdir", "setgroups", "geteuid")
        rules.allow("unshare", argument: 0, oneOf: [0x200])  // CLONE_FS
        // A keeper is a process that shares the descriptors (CLONE_FILES, CLONE_PIDFD,
        // SIGCHLD).
        rules.allow("clone", argument: 0, oneOf: [0x400 | 0x1000 | 17])
        // How many files can be open.
        rules.allow("prlimit64", argument: 2, mask: .max, is: 0)
        rules.allow("pidfd_open", "close_range")
        rules.allow("waitid", argument: 0, oneOf: [3])  // P_PIDFD
        return rules
    }
}
