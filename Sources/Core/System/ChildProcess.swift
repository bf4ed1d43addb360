internal import CLinux
internal import Glibc

/// How a process ended.
package enum ChildStatus: Equatable, Sendable, CustomStringConvertible {
    case exited(Int32)
    case killed(signal: Int32)

    /// For example `exited with status 1`.
    package var description: String {
        switch self {
        case .exited(let code): "exited with status \(code)"
        case .killed(let signal): "was killed by signal \(signal)"
        }
    }
}

/// A process that this one is the parent of. It gets SIGKILL when this process ends. All operations
/// name it by a pidfd, so they can never hit another process with a reused number.
package final class ChildProcess: Sendable {
    package let processID: Int32
    /// Readable once the process has ended.
    package let fd: SharedFD

    /// Starts a program.
    /// - Parameters:
    ///   - arguments: all of `argv`, the name first.
    ///   - environment: `KEY=value` strings.
    ///   - descriptors: what the program gets, and under which number (3 or more); it gets no others
    ///     apart from 0 to 2.
    package init(
        path: String, arguments: [String], environment: [String],
        descriptors: [(fd: SharedFD, number: Int32)] = []
    ) throws(SystemError) {
        let keep = descriptors.map { $0.fd.rawValue }
        let numbers = descriptors.map { $0.number }
        var pidfd: Int32 = -1
        // SAFETY: the pointer arrays and their strings live for the call, which copies them.
        let process = unsafe withCStrings(arguments) { argv in
            unsafe withCStrings(environment) { envp in
                unsafe path.withCString { path in
                    var program = unsafe clinux_program(
                        path: path, arguments: argv, environment: envp)
                    return unsafe clinux_spawn(&program, keep, numbers, keep.count, &pidfd)
                }
            }
        }
        withExtendedLifetime(descriptors) {}
        processID = try checking("exec", process)
        fd = SharedFD(owning: pidfd)
    }

    /// A process that somebody else has started as a child of this one.
    init(processID: Int32, fd: SharedFD) {
        self.processID = processID
        self.fd = fd
    }

    /// Sends a signal. Nothing happens if the process has ended.
    package func signal(_ number: Int32) { _ = clinux_pidfd_signal(fd.rawValue, number) }

    /// How the process ended, once; `nil` while it runs, and after that one time.
    package func reap() -> ChildStatus? {
        var code: Int32 = 0
        var signal: Int32 = 0
        // SAFETY: both results live for the call.
        guard unsafe clinux_reap(fd.rawValue, &code, &signal) == 1 else { return nil }
        return signal != 0 ? .killed(signal: signal) : .exited(code)
    }

    /// Waits for the end, for at most `milliseconds`; -1 is for as long as it takes.
    /// - Returns: how the process ended, once; `nil` if it still runs.
    package func wait(milliseconds: Int32 = -1) -> ChildStatus? {
        _ = clinux_poll_two(fd.rawValue, Int16(POLLIN), -1, 0, milliseconds)
        return reap()
    }
}
