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

/// A process that this one started. It gets SIGKILL when this process ends. All operations name it
/// by a pidfd, so they can never hit another process with a reused number.
package final class ChildProcess: Sendable {
    package let processID: Int32
    /// Readable once the process has ended.
    package let fd: SharedFD

    /// Starts `path`.
    /// - Parameters:
    ///   - arguments: all of `argv`, the name first.
    ///   - environment: `KEY=value` strings.
    ///   - descriptors: what the child gets, and under which number (3 or more); it gets no others
    ///     apart from 0 to 2.
    package init(
        path: String, arguments: [String], environment: [String],
        descriptors: [(fd: SharedFD, number: Int32)] = []
    ) throws(SystemError) {
        let keep = descriptors.map { $0.fd.rawValue }
        let numbers = descriptors.map { $0.number }
        // SAFETY: the pointer arrays and their strings live for the call, which copies them.
        let result = unsafe Self.withCStrings(arguments) { argv in
            unsafe Self.withCStrings(environment) { envp in
                unsafe clinux_spawn(path, argv, envp, keep, numbers, keep.count)
            }
        }
        withExtendedLifetime(descriptors) {}
        processID = try checking("exec", result)
        fd = SharedFD(owning: try checking("pidfd_open", clinux_pidfd_open(processID)))
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

    /// Calls `body` with a NULL-terminated array of C strings.
    private static func withCStrings<R>(
        _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> R
    ) -> R {
        // SAFETY: every copy is freed below, after its last use.
        var copies = unsafe strings.map { unsafe strdup($0) } + [nil]
        defer { unsafe copies.forEach { unsafe free($0) } }
        return unsafe copies.withUnsafeMutableBufferPointer { buffer in
            // There is at least the terminating NULL.
            unsafe body(buffer.baseAddress.unsafelyUnwrapped)
        }
    }
}
