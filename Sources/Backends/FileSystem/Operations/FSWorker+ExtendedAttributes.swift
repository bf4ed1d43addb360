internal import CLinux
internal import Glibc

extension FSWorker {
    private static let nameLimit = 255

    /// Drivers do not ask again after they were told that a request is not known.
    private func needExtendedAttributes() throws(FUSEError) {
        guard fileSystem.options.hasExtendedAttributes else { throw .unknownRequest }
    }

    /// What the host calls the attribute whose name comes next.
    private func hostName() throws(FUSEError) -> FUSEText {
        try hostName(of: try request.freeText(Self.nameLimit))
    }

    /// What the host calls an attribute. Valid until the next one.
    func hostName(of name: FUSEText) throws(FUSEError) -> FUSEText {
        guard let map = fileSystem.options.attributeMap else { return name }
        let bytes = unsafe UnsafeRawBufferPointer(
            start: name.pointer, count: strlen(name.pointer))
        return try unsafe listing.text(map.prefix(of: bytes), bytes)
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
        let name = try hostName()
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
        settleUser(at: node)
        let size = Int(try request.next(UInt32.self))
        try request.skip(4)
        let name: FUSEText
        do throws(FUSEError) {
            name = try hostName()
        } catch {
            // What a guest may not make is not there.
            throw error.code == EPERM ? FUSEError(ENODATA) : error
        }
        try unsafe putSizeOrBytes(size) { room, size in
            unsafe clinux_get_attribute(node.fd, name.pointer, room, size)
        }
    }

    func listExtendedAttributes() throws(FUSEError) {
        try needExtendedAttributes()
        let node = try node()
        let size = Int(try request.next(UInt32.self))
        guard let map = fileSystem.options.attributeMap else {
            return try unsafe putSizeOrBytes(size) { room, size in
                unsafe clinux_list_attributes(node.fd, room, size)
            }
        }
        let count = try fuseChecking(
            unsafe clinux_list_attributes(node.fd, listing.bytes, listing.size))
        let shown = unsafe Self.translate(listing.bytes, count, map)
        try unsafe putSizeOrBytes(size) { room, size in
            guard let room = unsafe room else { return shown }
            if shown > size { return -Int(ERANGE) }
            unsafe memcpy(room, listing.bytes, shown)
            return shown
        }
    }

    /// Turns the host's names, each with a NUL, into what the guest calls them, in their place.
    /// - Returns: how many bytes that are.
    private static func translate(
        _ names: UnsafeMutableRawPointer, _ size: Int, _ map: AttributeMap
    ) -> Int {
        var start = 0
        var count = 0
        // SAFETY: the kernel has written names with their NULs; what is shown is no longer than what
        // was read so far.
        while start < size {
            let name = unsafe names + start
            let length = unsafe strnlen(name.assumingMemoryBound(to: CChar.self), size - start)
            let bytes = unsafe UnsafeRawBufferPointer(start: name, count: length)
            if let hidden = unsafe map.hiddenPrefix(bytes), hidden < length {
                unsafe memmove(names + count, name + hidden, length - hidden)
                count += length - hidden
                unsafe (names + count).storeBytes(of: 0, as: UInt8.self)
                count += 1
            }
            start += length + 1
        }
        return count
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
        let name = try hostName()
        try fuseChecking(
            task.change { _, _ in
                unsafe clinux_get_attribute(node.fd, name.pointer, nil, 0) == -Int(ENODATA)
                    ? 0 : nil
            } _: {
                Int64(unsafe clinux_remove_attribute(node.fd, name.pointer))
            })
    }
}
