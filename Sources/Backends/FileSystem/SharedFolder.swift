internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// What a file system is made of: the shared folder, /proc, and what a keeper needs.
struct SharedFolder {
    let folder: SharedFD
    let proc: SharedFD
    let keeperFiles: [SharedFD]

    var all: [SharedFD] { [folder, proc] + keeperFiles }

    /// Opens what the options name.
    init(_ options: FSOptions) throws(BackendError) {
        // SAFETY: the path lives for the call.
        folder = try SharedFD(
            opened: unsafe clinux_open_share(options.path, options.isReadOnly ? 1 : 0),
            orFail: "cannot open the folder \(options.path)")
        // Other file systems that are mounted in it are known when they are used.
        if options.cacheSize > 0, let name = SharedWindow.foreignFileSystem(folder) {
            throw BackendError(
                "cache-size: the folder \(options.path) lies on a file system (\(name)) that does not"
                    + " have its pages on a disk of this host, so no window can show its files; share"
                    + " it without cache-size")
        }
        proc = try SharedFD(opened: clinux_open_proc(), orFail: "cannot open /proc")
        do {
            keeperFiles = try Keeper.makeFiles()
        } catch {
            throw BackendError("no memory and sockets for processes that go on: \(error.reason)")
        }
    }

    /// Takes what somebody else has opened.
    init(adopting files: [SharedFD]) throws(BackendError) {
        guard files.count == 2 + Keeper.fileCount else {
            throw BackendError(
                "a shared folder, /proc and a keeper's files are needed as open files")
        }
        folder = files[0]
        proc = files[1]
        keeperFiles = Array(files[2...])
    }
}
