package import Core

/// Who the guest is, and where on the host its connections begin and end.
package struct VsockOptions: Equatable, Sendable {
    /// The guest's context identifier.
    package var cid: UInt64
    /// The Unix socket for connections to the guest. Those from it go to sockets beside it, with
    /// `_` and the port behind their names.
    package var path: String

    private enum Keys {
        // 0 to 2 are the hypervisor, the guest itself and the host; the last one is anybody.
        static let cid = OptionKey.required(
            "cid", .integer(3...0xffff_fffe), help: "the guest's context identifier")
        static let path = OptionKey.required(
            "path", .path,
            help: "Unix socket to make: a program that connects and sends 'CONNECT PORT' and a "
                + "line end is connected to that port of the guest; what the guest opens to a port "
                + "of the host goes to the socket PATH_PORT")
    }

    package static let schema = OptionSchema(
        "vsock", leadingKey: "cid", keys: [Keys.cid.any, Keys.path.any])

    /// The most bytes in the path of a Unix socket.
    private static let pathLimit = 107
    /// What the longest port adds.
    private static let portLength = "_4294967295".utf8.count

    /// Takes what `schema` has parsed.
    package init(_ values: OptionValues) throws(OptionError) {
        cid = values[Keys.cid]
        path = values[Keys.path]
        guard path.utf8.count <= Self.pathLimit, name.utf8.count + Self.portLength <= Self.pathLimit
        else {
            throw OptionError(
                "the path has more than \(Self.pathLimit) bytes, the most for a socket (with its "
                    + "file's name \(Self.pathLimit - Self.portLength), because ports are appended)"
            )
        }
        guard !name.isEmpty else { throw OptionError("the path '\(path)' names a folder") }
    }

    /// The last part of the path.
    var name: String { String(path[nameStart...]) }

    /// The folder that the sockets are in.
    var folder: String {
        let folder = path[..<nameStart]
        return folder.isEmpty ? "." : String(folder)
    }

    private var nameStart: String.Index {
        path.utf8.lastIndex(of: UInt8(ascii: "/")).map { path.utf8.index(after: $0) }
            ?? path.startIndex
    }
}
