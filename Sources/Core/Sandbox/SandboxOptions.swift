/// How far a process locks itself in. What costs nothing is not optional: capabilities are dropped
/// and new privileges forbidden in any case.
package struct SandboxOptions: Equatable, Sendable {
    /// What happens to system calls that are on no list.
    package enum Seccomp: String, CaseIterable, Sendable {
        /// They end the process.
        case on
        /// The kernel's log names them, and they go on.
        case log
        case off
    }

    /// Whether the process leaves the host's namespaces and files.
    package enum Isolation: String, CaseIterable, Sendable {
        case on
        /// The root changes, for hosts that give no namespaces. A program on its own, as root.
        case chroot
        case off
        /// The parent process has seen to it.
        case inherited
    }

    package var seccomp = Seccomp.on
    package var isolation = Isolation.on

    package init(seccomp: Seccomp = .on, isolation: Isolation = .on) {
        self.seccomp = seccomp
        self.isolation = isolation
    }

    private enum Flags {
        static let seccomp = Flag.one(
            "seccomp", .choice(Seccomp.self), default: .on,
            help: "on: a system call that is not needed ends the process with status 7; "
                + "log: the kernel's log names it")
        static let sandbox = Flag.one(
            "sandbox", .choice(Isolation.self), default: .on,
            help: "Leave the host's namespaces and files; chroot: files alone, of a back end on "
                + "its own as root; inherited: the parent process has")
    }

    /// The flags of every program that has a sandbox.
    package static let flags = [Flags.seccomp.any, Flags.sandbox.any]

    /// Takes what `flags` have read.
    package init(_ values: CommandValues) {
        self.init(seccomp: values[Flags.seccomp], isolation: values[Flags.sandbox])
    }

    /// The command line of a child that is started inside this sandbox.
    package var childArguments: [String] {
        let isolation = isolation == .off ? Isolation.off : .inherited
        return ["--seccomp", seccomp.rawValue, "--sandbox", isolation.rawValue]
    }
}

/// A process could not be locked in; the description is one sentence for the user.
package struct SandboxError: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}
