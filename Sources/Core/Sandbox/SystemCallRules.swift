internal import Glibc

/// The system calls that a kind of thread may make; all others are forbidden. What is named twice
/// counts once: these are lists, because the start of a process has no time for sets of strings.
package struct SystemCallRules: Sendable {
    /// A call that is allowed if `argument & mask == value`.
    struct Condition: Sendable {
        let call: String
        let argument: UInt32
        let mask: UInt64
        let value: UInt64
    }

    private(set) var calls: [String] = []
    private(set) var conditions: [Condition] = []
    /// Calls that fail with an error which makes the C library use an older one.
    private(set) var missing: [String] = []

    package init() {}

    /// Allows calls, whatever their arguments.
    package mutating func allow(_ names: String...) { calls += names }

    /// Allows a call if a bit mask of an argument (counted from 0) has a value.
    package mutating func allow(_ name: String, argument: UInt32, mask: UInt64, is value: UInt64) {
        conditions.append(Condition(call: name, argument: argument, mask: mask, value: value))
    }

    /// Allows a call if an argument, of 32 bits, is one of `values`.
    package mutating func allow(_ name: String, argument: UInt32, oneOf values: [Int]) {
        for value in values {
            allow(
                name, argument: argument, mask: 0xffff_ffff,
                is: UInt64(truncatingIfNeeded: value) & 0xffff_ffff)
        }
    }

    /// Lets a call fail as on a kernel that does not have it.
    package mutating func hide(_ name: String) { missing.append(name) }

    /// Allows what `other` allows as well.
    package mutating func add(_ other: SystemCallRules) {
        calls += other.calls
        conditions += other.conditions
        missing += other.missing
    }

    /// What memory, threads, clocks, descriptors that are open already and the process's end take.
    package static var base: SystemCallRules {
        var rules = SystemCallRules()
        rules.allow(
            "brk", "munmap", "mremap", "madvise",
            "futex", "set_robust_list", "rseq", "sched_yield", "sched_getaffinity", "gettid",
            "getpid", "exit", "exit_group", "restart_syscall",
            "rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "sigaltstack",
            "clock_gettime", "clock_nanosleep", "nanosleep", "gettimeofday", "getrandom",
            "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv2", "lseek", "fstat",
            "close", "poll", "ppoll", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait",
            "eventfd2")
        // Threads, but no processes. What clone3 is asked for lies in memory, where no filter sees.
        let thread = Number.cloneThread
        rules.allow("clone", argument: 0, mask: thread, is: thread)
        rules.hide("clone3")
        rules.allow("tgkill", argument: 0, oneOf: [Int(getpid())])
        rules.allow("prctl", argument: 0, oneOf: [Number.setName, Number.getName])
        rules.allow("fcntl", argument: 1, oneOf: Number.fcntl)
        // A look at a descriptor, which newer C libraries do with this call.
        rules.allow("newfstatat", argument: 3, mask: Number.emptyPath, is: Number.emptyPath)
        return rules
    }

    /// Memory that is not executable.
    package static let dataMemory: SystemCallRules = {
        var rules = SystemCallRules()
        rules.allow("mmap", argument: 2, mask: UInt64(PROT_EXEC), is: 0)
        rules.allow("mprotect", argument: 2, mask: UInt64(PROT_EXEC), is: 0)
        return rules
    }()

    /// Connected Unix sockets, and shared memory that is passed over them.
    package static let messages: SystemCallRules = {
        var rules = SystemCallRules()
        rules.allow(
            "sendmsg", "recvmsg", "shutdown", "getsockopt", "memfd_create", "ftruncate", "fstatfs",
            "dup3")
        rules.allow("socketpair", argument: 0, oneOf: [Int(AF_UNIX)])
        return rules
    }()

    /// A terminal: its mode, size and foreground.
    package static let terminal: SystemCallRules = {
        var rules = SystemCallRules()
        rules.allow("getpgrp")
        rules.allow("ioctl", argument: 1, oneOf: [Number.isTerminal] + Number.terminal)
        return rules
    }()

    /// A look whether a descriptor is a terminal.
    package static let terminalCheck: SystemCallRules = {
        var rules = SystemCallRules()
        rules.allow("ioctl", argument: 1, oneOf: [Number.isTerminal])
        return rules
    }()

    /// Narrower filters for threads that are still to come.
    package static let narrowing: SystemCallRules = {
        var rules = SystemCallRules()
        rules.allow("seccomp", argument: 0, oneOf: [Number.setModeFilter])
        return rules
    }()

    private enum Number {
        static let cloneThread: UInt64 = 0x10000  // CLONE_THREAD
        static let setName = 15  // PR_SET_NAME
        static let getName = 16  // PR_GET_NAME
        static let setModeFilter = 1  // SECCOMP_SET_MODE_FILTER
        static let emptyPath: UInt64 = 0x1000  // AT_EMPTY_PATH
        static let isTerminal = 0x5401  // TCGETS
        /// TCSETS, TCSETSW, TCSETSF, TIOCGPGRP, TIOCGWINSZ
        static let terminal = [0x5402, 0x5403, 0x5404, 0x540f, 0x5413]
        /// Those that name no process to signal: descriptors, their flags, seals, OFD locks.
        static let fcntl = [
            Int(F_DUPFD), Int(F_GETFD), Int(F_SETFD), Int(F_GETFL), Int(F_SETFL),
            37, 1030, 1033, 1034,  // F_OFD_SETLK, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS
        ]
    }
}
