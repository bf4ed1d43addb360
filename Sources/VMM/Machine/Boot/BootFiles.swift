internal import CLinux
internal import Core
internal import Glibc

/// A file that the user gave to start a guest with: open, and not yet read.
struct BootFile: Sendable, CustomStringConvertible {
    /// For messages, for example `kernel`.
    let what: String
    let path: String
    let fd: SharedFD

    init(_ path: String, _ what: String) throws(BootError) {
        self.path = path
        self.what = what
        do {
            // SAFETY: the path lives for the call. Non-blocking, so that a pipe by this name does
            // not stop us.
            let raw = try checking("open", unsafe clinux_open(path, O_RDONLY | O_NONBLOCK, 0))
            fd = SharedFD(owning: raw)
        } catch {
            throw BootError("the \(what) '\(path)' cannot be read: \(error.reason)")
        }
    }

    var description: String { "\(what) '\(path)'" }
    /// The path's last part, which is all that the guest hears of it.
    var name: String {
        path.split(separator: "/", omittingEmptySubsequences: true).last.map(String.init) ?? ""
    }
}

/// What a guest starts with, opened before the process locks itself in; read at every start.
package struct BootFiles: Sendable {
    let kernel: BootFile
    let initramfs: BootFile?
    let commandLine: String

    package init(_ source: BootSource) throws(BootError) {
        kernel = try BootFile(source.kernel, "kernel")
        initramfs = try source.initramfs.map { path throws(BootError) in
            try BootFile(path, "initramfs")
        }
        commandLine = source.commandLine
    }
}
