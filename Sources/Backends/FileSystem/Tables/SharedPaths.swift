internal import CLinux
internal import Core
internal import Glibc

/// Where files lie in the shared folder, as the kernel says it of those that are open. In threads that
/// have entered their descriptors.
struct SharedPaths {
    private let root: Node
    /// The path of the shared folder itself, with a slash behind it.
    private let prefix: [CChar]

    private static let slash = CChar(bitPattern: UInt8(ascii: "/"))

    init(_ root: Node) {
        self.root = root
        let text = Self.text(root.fd) ?? []
        prefix = text.last == Self.slash ? text : text + [Self.slash]
    }

    /// What the kernel says of an open file, without a NUL: a path, in a mount of the folder's own
    /// from there; something else if the file has no name, or lies in no mount.
    static func text(_ fd: Int32) -> [CChar]? {
        var path = [CChar](repeating: 0, count: FUSELimit.path + 2)
        // SAFETY: the kernel writes to the array at most as many bytes as it is told, and a NUL.
        let length = unsafe clinux_path(fd, &path, path.count)
        return length > 0 ? Array(path.prefix(Int(length))) : nil
    }

    /// The last name in such a text, with a NUL.
    static func lastName(_ text: [CChar]) -> [CChar] {
        Array(text[((text.lastIndex(of: slash) ?? -1) + 1)...]) + [0]
    }

    /// The path from the shared folder on, with a NUL; `nil` if the text does not begin there.
    func path(_ text: [CChar]) -> [CChar]? {
        text.starts(with: prefix) ? Array(text.dropFirst(prefix.count)) + [0] : nil
    }

    /// Whether a path leads to a file, from the shared folder down, through no link.
    func leads(_ path: [CChar], to key: Node.Key) -> Bool {
        guard path.count > 1 else { return false }
        let fd = unsafe path.withUnsafeBufferPointer { text -> Int32 in
            guard let text = text.baseAddress else { return -ENOENT }
            return unsafe clinux_open_beneath(root.fd, text, CLINUX_O_PATH | O_NOFOLLOW, 0)
        }
        guard fd >= 0 else { return false }
        let opened = OwnedFD(owning: fd)
        return (try? FileStatus.of(opened.rawValue)).map { Node.Key($0) == key } ?? false
    }

    /// How often a file is looked for that the host moves meanwhile.
    private static let attempts = 3

    /// Whether an open file lies beneath the shared folder. What the kernel says of its place is not
    /// enough: of a file outside the mount it says the path from the file system's own root, which may
    /// look the same, and of one without a name what it was. So the way down from the shared folder
    /// must end at that very file, on the same mount.
    func holds(_ fd: Int32, _ key: Node.Key) -> Bool {
        for _ in 0..<Self.attempts {
            guard let text = Self.text(fd), let path = path(text) else { return false }
            if leads(path, to: key) { return true }
        }
        return false
    }
}
