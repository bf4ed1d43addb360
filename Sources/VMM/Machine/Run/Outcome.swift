/// How a machine ended; what the executable exits with. The numbers are part of the command line's
/// contract.
package enum Outcome: Int32, Sendable, CaseIterable {
    /// The guest powered off.
    case powerOff = 0
    /// Something outside the guest went wrong; a sentence was printed.
    case error = 1
    /// The command line was wrong; a sentence was printed.
    case usage = 2
    /// The guest rebooted, and `--on-reboot` is `exit`.
    case reboot = 3
    /// The guest reported a panic, and `--on-panic` is `exit`.
    case panic = 4
    /// The guest's CPU stopped with a triple fault, and `--on-triple-fault` is `exit`.
    case tripleFault = 5
    /// Ctrl-A x, a signal that asks to end, or the monitor's `quit`.
    case ended = 6
    /// A system call that is not allowed; a sentence was printed.
    case forbiddenCall = 7

    package var meaning: String {
        switch self {
        case .powerOff: "the guest powered off"
        case .error: "an error outside the guest"
        case .usage: "the command line is wrong"
        case .reboot: "the guest rebooted, with --on-reboot exit"
        case .panic: "the guest reported a panic"
        case .tripleFault: "the guest's CPU stopped with a triple fault"
        case .ended:
            "ended from outside: Ctrl-A x, SIGTERM, SIGINT, SIGHUP, SIGQUIT, the monitor's quit"
        case .forbiddenCall: "apus tried a system call that it does not need (--seccomp)"
        }
    }

    /// What else the help says of it.
    package var note: String? {
        self == .panic ? "which needs its driver for pvpanic; else it reboots" : nil
    }
}

/// What to do when a guest comes to an end of some kind.
package enum EndPolicy: String, CaseIterable, Sendable {
    case exit
    case restart
}
