internal import Core
internal import Glibc

/// The bytes of a kernel or initramfs, from a file or unpacked from one. Every access is checked.
// SAFETY: the only unsafe storage is `mapping`'s; accesses are checked against `count`.
@safe struct ImageBytes: Sendable {
    /// What no kernel reaches; guards against mistakes, not attacks.
    static let sizeLimit = 4 << 30

    private let mapping: MemoryMapping
    let count: Int

    /// The first `count` bytes of `mapping`.
    init(_ mapping: MemoryMapping, count: Int) {
        self.mapping = mapping
        self.count = min(count, mapping.size)
    }

    /// Reads a whole file.
    /// - Parameter limit: the most bytes that are of use.
    init(_ file: BootFile, limit: Int = ImageBytes.sizeLimit) throws(BootError) {
        do {
            let raw = file.fd.rawValue
            var status = stat()
            // SAFETY: `status` lives for the call.
            _ = try retrying("fstat") { unsafe fstat(raw, &status) }
            guard status.st_mode & S_IFMT == S_IFREG else {
                throw BootError("the \(file) is not a file")
            }
            guard status.st_size > 0 else { throw BootError("the \(file) is empty") }
            guard status.st_size <= limit else {
                let size = (status.st_size - 1) >> 20 + 1
                throw BootError(
                    "the \(file) has \(size) MiB, which is more than the \(limit >> 20) MiB that "
                        + "there is room for")
            }
            mapping = try MemoryMapping(filling: status.st_size)
            count = try Self.readAll(raw, into: mapping)
        } catch let error as SystemError {
            throw BootError("the \(file) cannot be read: \(error.reason)")
        } catch let error as BootError {
            throw error
        } catch {
            throw BootError("the \(file) cannot be read: \(error)")
        }
    }

    private static func readAll(_ fd: Int32, into mapping: MemoryMapping) throws(SystemError) -> Int
    {
        var done = 0
        while done < mapping.size {
            // SAFETY: `done` is less than the mapping's size.
            let got = try retrying("pread") {
                unsafe pread(fd, mapping.base + done, mapping.size - done, done)
            }
            if got == 0 { break }
            done += got
        }
        return done
    }

    /// The little-endian number at `offset`, or `nil` past the end.
    func load<T: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, as type: T.Type) -> T? {
        guard contains(offset, MemoryLayout<T>.size) else { return nil }
        // SAFETY: the bytes are inside the mapping.
        return unsafe (mapping.base + offset).loadUnaligned(as: type)
    }

    /// Whether `size` bytes from `offset` exist.
    func contains(_ offset: Int, _ size: Int) -> Bool {
        offset >= 0 && size >= 0 && offset <= count && size <= count - offset
    }

    /// Whether `bytes` are at `offset`.
    func matches(_ bytes: [UInt8], at offset: Int = 0) -> Bool {
        guard contains(offset, bytes.count) else { return false }
        return bytes.indices.allSatisfy { load(offset + $0, as: UInt8.self) == bytes[$0] }
    }

    /// A copy of some bytes; fewer where the image ends.
    func copy(_ offset: Int, _ size: Int) -> [UInt8] {
        guard contains(offset, 0), size > 0 else { return [] }
        return (0..<min(size, count - offset)).compactMap { load(offset + $0, as: UInt8.self) }
    }

    /// Calls `body` with some of the bytes; `nil` where they do not exist.
    func withBytes<R>(
        _ offset: Int, _ size: Int, _ body: (UnsafeRawBufferPointer) -> R
    ) -> R? {
        guard contains(offset, size) else { return nil }
        // SAFETY: the bytes are inside the mapping, which outlives the call.
        return unsafe body(UnsafeRawBufferPointer(start: mapping.base + offset, count: size))
    }

    /// Copies some of the bytes to guest memory.
    func write(
        _ offset: Int, _ size: Int, to memory: GuestMemory, at address: GuestAddress
    ) throws(GuestMemoryError) {
        guard contains(offset, size) else {
            throw .outOfRange(address, count: UInt64(truncatingIfNeeded: size))
        }
        // SAFETY: the bytes are inside the mapping, which outlives the call.
        try unsafe memory.load(
            address, from: UnsafeRawBufferPointer(start: mapping.base + offset, count: size))
    }
}
