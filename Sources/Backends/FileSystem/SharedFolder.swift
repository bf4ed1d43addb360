internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// What a file system is made of: the shared folder, and /proc.
struct SharedFolder {
    let folder: SharedFD
    let proc: SharedFD

    var all: [SharedFD] { [folder, proc] }

    /// Opens what the options name.
    init(_ options: FSOptions) throws(BackendError) {
        // SAFETY: the path lives for the call.
        folder = try SharedFD(
            opened: unsafe clinux_open_share(options.path, options.isReadOnly ? 1 : 0),
            orFail: "cannot open the folder \(options.path)")
        proc = try SharedFD(opened: clinux_open_proc(), orFail: "cannot open /proc")
    }

    /// Takes what somebody else has opened.
    init(adopting files: [SharedFD]) throws(BackendError) {
        guard files.count == 2 else {
            throw BackendError("a shared folder and /proc are needed as open files")
        }
        folder = files[0]
        proc = files[1]
    }
}
