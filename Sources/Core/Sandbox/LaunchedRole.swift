internal import CLinux
internal import Glibc

/// What a process that a launcher starts is, and what it is started with.
package struct LaunchedRole: Sendable {
    /// The process's name, as in `ps`.
    let name: String
    let arguments: [String]
    /// What the process gets, and under which number (4 or more).
    let descriptors: [(fd: SharedFD, number: Int32)]
    /// A folder below which it goes on to work with files.
    let folder: SharedFD?
    /// Whether files there are opened by their handles.
    let opensHandles: Bool
    private let main: @Sendable ([String]) -> Int32

    /// - Parameter main: what the process does with its arguments; returns its exit status.
    package init(
        _ name: String, arguments: [String], descriptors: [(fd: SharedFD, number: Int32)],
        folder: SharedFD? = nil, opensHandles: Bool = false,
        main: @escaping @Sendable ([String]) -> Int32
    ) {
        self.name = name
        self.arguments = arguments
        self.descriptors = descriptors
        self.folder = folder
        self.opensHandles = opensHandles
        self.main = main
    }

    /// Makes a copy of this process, a child of its parent, which is what this says and does not
    /// return from here. It has `fd` as its descriptor 3.
    /// - Returns: the process's number or -errno.
    func launch(with fd: SharedFD, _ pidfd: inout Int32) -> Int32 {
        let keep = [fd.rawValue] + descriptors.map { $0.fd.rawValue }
        let numbers = [3] + descriptors.map { $0.number }
        // Who works with files has to know their users.
        let rights = folder == nil ? CLINUX_LESS_RIGHTS : CLINUX_SAME_RIGHTS
        // SAFETY: the arrays live for the call.
        let process = unsafe clinux_fork_sibling(rights, keep, numbers, keep.count, &pidfd)
        if process == 0 { begin() }
        return process
    }

    private func begin() -> Never {
        nameProcess(name, arguments)
        // SAFETY: the string is copied.
        _ = unsafe clinux_report_forbidden_calls(name)
        exit(main(arguments))
    }
}

/// Shows this process as another program than its original is, as far as there is room.
func nameProcess(_ name: String, _ arguments: [String] = []) {
    var line = ([name] + arguments).joined(separator: "\0")
    line.withUTF8 { text in
        // SAFETY: the text is copied.
        unsafe clinux_set_command_line(text.baseAddress, text.count)
    }
    // SAFETY: the string is copied.
    _ = unsafe clinux_set_thread_name(name)
}
