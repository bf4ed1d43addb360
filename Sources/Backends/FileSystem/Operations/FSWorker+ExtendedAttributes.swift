internal import CLinux
internal import Glibc

extension FSWorker {
    private static let nameLimit = 255

    /// Drivers do not ask again after they were told that a request is not known.
    private func needExtendedAttributes() throws(FUSEError) {
        guard fileSystem.options.hasExtendedAttributes else { throw .unknownRequest }
    }

    func setExtendedAttribute() throws(FUSEError) {
        try needExtendedAttributes()
        let node = try node()
        let size = Int(try request.next(UInt32.self))
        let flags = try request.next(UInt32.self)
        var dropsSetID = false
        if fileSystem.has(.largeSetAttribute) {
            dropsSetID = try request.next(UInt32.self) & FUSEDropSetID.settingAccessList != 0
            try request.skip(4)
        }
        guard size <= FUSELimit.attributeValue else { throw FUSEError(E2BIG) }
        // XATTR_CREATE, XATTR_REPLACE
        guard flags & ~3 == 0 else { throw .invalid }
        let name = try request.freeText(Self.nameLimit)
        let value = try unsafe request.data(size)
        let result = try droppingSetID(dropsSetID) { () throws(FUSEError) in
            try task.change { _, _ in
                // XATTR_CREATE: it would be there.
                unsafe flags & 1 != 0 && clinux_get_attribute(node.fd, name.pointer, nil, 0) == size
                    ? 0 : nil
            } _: {
                Int64(
                    unsafe clinux_set_attribute(
                        node.fd, name.pointer, value, size, Int32(flags)))
            }
        }
        try fuseChecking(result)
    }

    func getExtendedAttribute() throws(FUSEError) {
        try needExtendedAttributes()
        let node = try node()
        let size = Int(try request.next(UInt32.self))
        try request.skip(4)
        let name = try request.freeText(Self.nameLimit)
        try unsafe putSizeOrBytes(size) { room, size in
            unsafe clinux_get_attribute(node.fd, name.pointer, room, size)
        }
    }

    func listExtendedAttributes() throws(FUSEError) {
        try needExtendedAttributes()
        let node = try node()
        let size = Int(try request.next(UInt32.self))
        try unsafe putSizeOrBytes(size) { room, size in
            unsafe clinux_list_attributes(node.fd, room, size)
        }
    }

    /// Answers with what `body` fills in, or with how much that would be (`fuse_getxattr_out`).
    private func putSizeOrBytes(
        _ size: Int, _ body: (UnsafeMutableRawPointer?, Int) -> Int
    ) throws(FUSEError) {
        if size == 0 {
            reply.put(UInt32(clamping: try fuseChecking(body(nil, 0))))
            reply.put(0 as UInt32)
            return
        }
        let limit = min(size, FUSEReply.limit)
        try unsafe reply.fill(limit) { room throws(FUSEError) in
            try fuseChecking(unsafe body(room, limit))
        }
    }

    func removeExtendedAttribute() throws(FUSEError) {
        try needExtendedAttributes()
        let node = try node()
        let name = try request.freeText(Self.nameLimit)
        try fuseChecking(
            task.change { _, _ in
                unsafe clinux_get_attribute(node.fd, name.pointer, nil, 0) == -Int(ENODATA)
                    ? 0 : nil
            } _: {
                Int64(unsafe clinux_remove_attribute(node.fd, name.pointer))
            })
    }
}
