internal import Glibc

/// Room for what the host says of a folder (`linux_dirent64`, getdents64(2)).
// SAFETY: `bytes` belongs to this object and has room for `size` bytes.
@safe final class FolderListing {
    let size = FUSEReply.limit
    let bytes: UnsafeMutableRawPointer

    init() { unsafe bytes = .allocate(byteCount: FUSEReply.limit, alignment: 16) }

    deinit { unsafe bytes.deallocate() }

    /// The text that two others make. Valid until something else is put here.
    func text(
        _ first: [UInt8], _ second: UnsafeRawBufferPointer
    ) throws(FUSEError) -> FUSEText {
        // As the host says it (xattr(7)).
        guard first.count + second.count <= FUSELimit.name else { throw FUSEError(ERANGE) }
        let room = unsafe UnsafeMutableRawBufferPointer(start: bytes, count: size)
        unsafe room.copyBytes(from: first)
        unsafe UnsafeMutableRawBufferPointer(rebasing: room[first.count...])
            .copyMemory(from: second)
        unsafe room[first.count + second.count] = 0
        return unsafe FUSEText(pointer: UnsafePointer(bytes.assumingMemoryBound(to: CChar.self)))
    }

    /// One name in a folder.
    // SAFETY: `name` leads to `nameLength` bytes and a NUL, as long as nothing else is read.
    @safe struct Entry {
        let inode: UInt64
        /// Where the folder goes on behind it.
        let next: UInt64
        let type: UInt8
        let name: UnsafeRawPointer
        let nameLength: Int

        var nameText: FUSEText {
            unsafe FUSEText(pointer: name.assumingMemoryBound(to: CChar.self))
        }

        /// `.` or `..`
        var isSpecial: Bool {
            unsafe strcmp(nameText.pointer, ".") == 0 || isParent
        }

        var isParent: Bool { unsafe strcmp(nameText.pointer, "..") == 0 }
    }

    /// The entries of a part of a folder.
    // SAFETY: the kernel has written whole entries to the `count` bytes, which outlive this value.
    @safe struct Entries {
        private let bytes: UnsafeRawPointer
        private let count: Int
        private var position = 0

        init(_ bytes: UnsafeRawPointer, _ count: Int) {
            unsafe self.bytes = unsafe bytes
            self.count = count
        }

        mutating func next() -> Entry? {
            // d_ino, d_off, d_reclen, d_type, d_name
            guard count - position > 19 else { return nil }
            let start = unsafe bytes + position
            let length = Int(unsafe start.loadUnaligned(fromByteOffset: 16, as: UInt16.self))
            precondition(length > 19 && length <= count - position, "the kernel gives no entry")
            position += length
            let name = unsafe start + 19
            return unsafe Entry(
                inode: start.loadUnaligned(as: UInt64.self),
                next: start.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
                type: start.load(fromByteOffset: 18, as: UInt8.self), name: name,
                nameLength: strnlen(name.assumingMemoryBound(to: CChar.self), length - 19))
        }
    }
}
