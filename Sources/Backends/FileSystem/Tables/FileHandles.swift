internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// Names that the shared folder's file system itself has for files (name_to_handle_at(2)). They stay
/// the same while names change, but to open a file by one takes a right that a process in a user
/// namespace of its own does not have.
final class FileHandles: Sendable {
    /// Any open file of the file system.
    private let mount: OwnedFD

    /// - Returns: `nil` if they are not wanted, or only preferred and not to be had.
    static func make(
        _ wanted: FSOptions.FileHandles, _ folder: SharedFD
    ) throws(BackendError) -> FileHandles? {
        if wanted == .never { return nil }
        let code: Int32
        do throws(FUSEError) {
            let handles = try FileHandles(folder)
            try handles.check(folder)
            return handles
        } catch {
            code = error.code
        }
        let reason = SystemError("", errno: code).reason
        guard wanted == .mandatory else {
            fsLog(
                .info,
                "files are known by descriptors, because they cannot be opened by handles: \(reason)"
            )
            return nil
        }
        throw BackendError(
            "files cannot be opened by handles (\(reason)), which takes CAP_DAC_READ_SEARCH in the "
                + "host's user namespace: start this as root with --sandbox chroot or off, or give "
                + "inode-file-handles=prefer")
    }

    private init(_ folder: SharedFD) throws(FUSEError) {
        mount = OwnedFD(
            owning: try fuseChecking(
                unsafe clinux_open_beneath(folder.rawValue, ".", O_RDONLY | O_DIRECTORY, 0)))
    }

    private func check(_ folder: SharedFD) throws(FUSEError) {
        var handle = clinux_file_handle()
        // SAFETY: the result lives for the call.
        try fuseChecking(unsafe clinux_get_handle(folder.rawValue, &handle))
        _ = try open(handle)
    }

    /// `nil` if a file has none.
    func handle(of node: Node) -> clinux_file_handle? {
        var handle = clinux_file_handle()
        // SAFETY: the result lives for the call.
        return unsafe clinux_get_handle(node.fd, &handle) == 0 ? handle : nil
    }

    func open(_ handle: clinux_file_handle) throws(FUSEError) -> OwnedFD {
        var handle = handle
        // SAFETY: the handle lives for the call.
        return OwnedFD(
            owning: try fuseChecking(
                unsafe clinux_open_handle(mount.rawValue, &handle, CLINUX_O_PATH | O_NOFOLLOW)))
    }
}
