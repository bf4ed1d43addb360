internal import CLinux
internal import Core
internal import Glibc

// Security labels: the driver sends them with what makes a file (<linux/fuse.h>,
// "fuse_secctx_header"), because a label that came later would come too late.
extension FSWorker {
    /// A list of labels in the request, which has been checked.
    struct Labels {
        fileprivate let start: Int
    }

    // SAFETY: `value` leads to `size` bytes of the request, as long as there is no other one.
    @safe private struct Label {
        let name: FUSEText
        let value: UnsafeRawPointer
        let size: Int
    }

    private static let prefix = "security."
    /// What gives a program rights is no label: who makes a file does not choose them.
    private static let capability = "security.capability"
    /// FUSE_MAX_NR_SECCTX
    private static let countLimit: UInt32 = 31

    /// Checks the labels that come next, to the last, before anything is made.
    /// - Returns: `nil` if there are none.
    func labels() throws(FUSEError) -> Labels? {
        guard fileSystem.has(.securityLabels), request.rest > 0 else { return nil }
        let labels = Labels(start: request.mark)
        var count = 0
        try eachLabel { label throws(FUSEError) in
            _ = try hostName(of: label.name)
            count += 1
        }
        return count > 0 ? labels : nil
    }

    /// Each label has its size, its name with a NUL and its value, and begins at a multiple of 8 bytes
    /// from the first.
    private func eachLabel(_ body: (Label) throws(FUSEError) -> Void) throws(FUSEError) {
        let size = Int(try request.next(UInt32.self))
        let count = try request.next(UInt32.self)
        guard count <= Self.countLimit, size >= 8, size - 8 <= request.rest else { throw .invalid }
        let end = request.mark + size - 8
        for _ in 0..<count {
            let start = request.mark
            let valueSize = Int(try request.next(UInt32.self))
            try request.skip(4)
            guard valueSize > 0, valueSize <= FUSELimit.attributeValue else { throw .invalid }
            let name = try request.freeText(FUSELimit.name)
            let length = unsafe strlen(name.pointer)
            let isLabel = unsafe strncmp(name.pointer, Self.prefix, Self.prefix.utf8.count) == 0
            guard isLabel, length > Self.prefix.utf8.count,
                unsafe strcmp(name.pointer, Self.capability) != 0
            else { throw FUSEError(EPERM) }
            let value = try unsafe request.data(valueSize)
            // What follows the list is none of it.
            guard request.mark <= end else { throw .invalid }
            let padding = (8 - (request.mark - start) % 8) % 8
            try request.skip(min(padding, end - request.mark))
            try unsafe body(Label(name: name, value: value, size: valueSize))
        }
    }

    /// Gives an open file its labels; root may.
    func setLabels(_ labels: Labels, _ fd: Int32) throws(FUSEError) {
        user.becomeRoot()
        request.goBack(to: labels.start)
        try eachLabel { label throws(FUSEError) in
            let name = try hostName(of: label.name)
            try fuseChecking(
                unsafe clinux_set_attribute(fd, name.pointer, label.value, label.size, 0))
        }
    }

    /// Gives what has just been made its labels. If that fails, it is removed: without them, others
    /// might do with it what they must not. What a host's program has put in its place meanwhile is
    /// neither labelled nor removed.
    /// - Parameters:
    ///   - type: what was made (S_IFMT).
    ///   - made: its descriptor, if it is open.
    func setLabels(
        _ labels: Labels?, _ folder: Node, _ name: FUSEText, _ type: UInt32, made: Int32? = nil
    ) throws(FUSEError) {
        guard let labels else { return }
        user.becomeRoot()
        let status =
            if let made { try FileStatus.of(made) } else { try FileStatus.of(folder.fd, name) }
        guard status.type == type else { throw .stale }
        let key = Node.Key(status)
        do throws(FUSEError) {
            if let made { return try setLabels(labels, made) }
            let fd = OwnedFD(
                owning: try fuseChecking(
                    unsafe clinux_open_name(
                        folder.fd, name.pointer, CLINUX_O_PATH | O_NOFOLLOW, 0)))
            guard Node.Key(try FileStatus.of(fd.rawValue)) == key else { throw .stale }
            try setLabels(labels, fd.rawValue)
        } catch {
            guard let now = try? FileStatus.of(folder.fd, name), Node.Key(now) == key else {
                throw error
            }
            _ = expecting(name) {
                Int64(unsafe clinux_remove(folder.fd, name.pointer, type == S_IFDIR ? 1 : 0))
            }
            throw error
        }
    }

    /// Makes a file that has its labels before it has its name.
    /// - Returns: its descriptor, -errno, or `nil` if the file system cannot do that.
    func makeLabelled(
        _ labels: Labels, _ folder: Node, _ name: FUSEText, _ flags: Int32, _ mode: UInt32
    ) -> Int32? {
        var wanted = flags & ~(O_CREAT | O_EXCL)
        // A file without a name is made to be written.
        if wanted & O_ACCMODE == O_RDONLY { wanted |= O_RDWR }
        let fd = unsafe clinux_open_beneath(folder.fd, ".", wanted | CLINUX_O_TMPFILE, mode)
        guard fd >= 0 else { return nil }
        do throws(FUSEError) {
            try setLabels(labels, fd)
            try fuseChecking(unsafe clinux_link(fd, folder.fd, name.pointer))
            return fd
        } catch {
            close(fd)
            return -error.code
        }
    }
}
