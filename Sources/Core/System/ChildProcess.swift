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

/// A program and what it is started with.
package struct Program: Sendable {
    /// Where a program comes from.
    package enum Executable: Sendable {
        case path(String)
        /// Open, for a process that sees no files.
        case open(SharedFD)
    }

    package let executable: Executable
    /// All of `argv`, the name first.
    package let arguments: [String]
    /// `KEY=value` strings.
    package let environment: [String]
    /// What the program gets, and under which number (3 or more); it gets no others apart from 0
    /// to 2.
    package var descriptors: [(fd: SharedFD, number: Int32)]
    /// A folder below which it goes on to work with files, if it is one that a launcher starts.
    package let folder: SharedFD?

    package init(
        _ executable: Executable, arguments: [String], environment: [String] = [],
        descriptors: [(fd: SharedFD, number: Int32)] = [], folder: SharedFD? = nil
    ) {
        self.folder = folder
        self.executable = executable
        self.arguments = arguments
        self.environment = environment
        self.descriptors = descriptors
    }

    /// Starts it.
    /// - Returns: the process's number or -errno, and a pidfd or -1.
    func spawn(as relation: clinux_relation) -> (process: Int32, pidfd: Int32) {
        let keep = descriptors.map { $0.fd.rawValue }
        let numbers = descriptors.map { $0.number }
        var pidfd: Int32 = -1
        let path: String
        var open: Int32 = -1
        switch executable {
        case .path(let text): path = text
        case .open(let fd):
            path = ""
            open = fd.rawValue
        }
        // SAFETY: the pointer arrays and their strings live for the call, which copies them.
        let process = unsafe withCStrings(arguments) { argv in
            unsafe withCStrings(environment) { envp in
                unsafe path.withCString { path in
                    var program = unsafe clinux_program(
                        path: path, executable: open, arguments: argv, environment: envp)
                    return unsafe clinux_spawn(
                        &program, relation, keep, numbers, keep.count, &pidfd)
                }
            }
        }
        withExtendedLifetime(self) {}
        return (process, pidfd)
    }
}

/// A process that this one is the parent of. It gets SIGKILL when this process ends. All operations
/// name it by a pidfd, so they can never hit another process with a reused number.
package final class ChildProcess: Sendable {
    package let processID: Int32
    /// Readable once the process has ended.
    package let fd: SharedFD

    /// Starts `program`.
    package init(_ program: Program) throws(SystemError) {
        let (process, pidfd) = program.spawn(as: CLINUX_CHILD)
        processID = try checking("exec", process)
        fd = SharedFD(owning: pidfd)
    }

    package convenience init(
        path: String, arguments: [String], environment: [String],
        descriptors: [(fd: SharedFD, number: Int32)] = []
    ) throws(SystemError) {
        try self.init(
            Program(
                .path(path), arguments: arguments, environment: environment,
                descriptors: descriptors))
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
