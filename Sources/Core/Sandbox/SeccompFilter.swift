internal import CLinux
internal import CSeccomp
internal import Glibc

/// Rules as a program for the kernel, which threads load. Threads that a thread starts, and
/// programs that it becomes, have its filters as well: each can only take rights away.
package final class SeccompFilter: Sendable {
    private let program: [UInt8]

    /// - Returns: `nil` if `mode` is `off`.
    package init?(_ rules: SystemCallRules, _ mode: SandboxOptions.Seccomp) throws(SandboxError) {
        let otherwise: UInt32
        switch mode {
        case .on: otherwise = SCMP_ACT_TRAP
        case .log: otherwise = SCMP_ACT_LOG
        case .off: return nil
        }
        do {
            program = try Self.compile(rules, otherwise: otherwise)
        } catch {
            throw SandboxError("the system call filter cannot be made: \(error)")
        }
    }

    /// Restricts the calling thread.
    package func load() throws(SandboxError) {
        // SAFETY: the kernel copies the program.
        let result = unsafe program.withUnsafeBytes { bytes in
            unsafe clinux_load_filter(bytes.baseAddress.unsafelyUnwrapped, bytes.count)
        }
        guard result == 0 else {
            throw SandboxError(
                "the system call filter cannot be loaded: "
                    + "\(SystemError("seccomp", errno: -result).reason); "
                    + "--seccomp off does without")
        }
    }

    /// Restricts the calling thread, for threads that nobody waits for: without its filter a thread
    /// must not go on.
    package func loadOrEnd() {
        do {
            try load()
        } catch {
            Sandbox.log(.error, "\(error)")
            // Others run, so nothing of theirs may be torn down.
            _exit(1)
        }
    }

    private static func compile(
        _ rules: SystemCallRules, otherwise: UInt32
    ) throws(SystemError) -> [UInt8] {
        guard let context = unsafe seccomp_init(otherwise) else {
            throw SystemError("seccomp_init", errno: ENOMEM)
        }
        // SAFETY: the context is valid until here.
        defer { unsafe seccomp_release(context) }
        // Balanced, because some threads live on cheap system calls.
        _ = try checking(
            "seccomp_attr_set", unsafe seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2))
        // The library refuses conditions for a call that is allowed without any.
        var isDone = [Bool](repeating: false, count: numberLimit)
        for (names, action) in [
            (rules.calls, SCMP_ACT_ALLOW), (rules.missing, SCMP_ACT_ERRNO_BASE | UInt32(ENOSYS)),
        ] {
            for name in names {
                let number = number(name)
                if isDone[Int(number)] { continue }
                isDone[Int(number)] = true
                _ = try checking(
                    "seccomp_rule_add",
                    unsafe seccomp_rule_add_array(context, action, number, 0, nil))
            }
        }
        for condition in rules.conditions {
            let number = number(condition.call)
            if isDone[Int(number)] { continue }
            var comparison = scmp_arg_cmp(
                arg: condition.argument, op: SCMP_CMP_MASKED_EQ, datum_a: condition.mask,
                datum_b: condition.value)
            _ = try checking(
                "seccomp_rule_add",
                unsafe seccomp_rule_add_array(context, SCMP_ACT_ALLOW, number, 1, &comparison))
        }
        return try unsafe export(context)
    }

    /// Above all numbers of system calls.
    private static let numberLimit = 1024
    private static let SCMP_ACT_ERRNO_BASE: UInt32 = 0x0005_0000

    private static func number(_ name: String) -> Int32 {
        let number = unsafe seccomp_syscall_resolve_name(name)
        precondition((0..<Int32(numberLimit)).contains(number), "there is no system call \(name)")
        return number
    }

    private static func export(_ context: scmp_filter_ctx) throws(SystemError) -> [UInt8] {
        let fd = SharedFD(
            owning: try checking("memfd_create", unsafe clinux_memfd_create("apus-filter", 0)))
        _ = try checking("seccomp_export_bpf", unsafe seccomp_export_bpf(context, fd.rawValue))
        let length = try retrying("lseek") { lseek(fd.rawValue, 0, SEEK_END) }
        return try fd.read(Int(length), at: 0)
    }
}
