internal import Glibc

extension DescriptorChain {
    private enum Direction { case toHost, toGuest }

    /// Copies bytes of the readable part, from `offset` of it.
    /// - Returns: how many there were, at most the buffer's size.
    // SAFETY: for the caller: the buffer is the caller's own memory.
    @discardableResult
    public func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) -> Int {
        unsafe copy(.toHost, 0, storage.pointee.readableCount, offset, buffer)
    }

    /// Copies bytes into the writable part, from `offset` of it.
    /// - Returns: how many there was room for.
    @discardableResult
    public func write(at offset: UInt64, from buffer: UnsafeRawBufferPointer) -> Int {
        // SAFETY: `copy` to the guest only reads the buffer.
        unsafe copy(
            .toGuest, storage.pointee.readableCount, storage.pointee.count, offset,
            UnsafeMutableRawBufferPointer(mutating: buffer))
    }

    /// Copies an array into the writable part.
    /// - Returns: how many bytes there was room for.
    @discardableResult
    public func write(at offset: UInt64, _ bytes: [UInt8]) -> Int {
        // SAFETY: the buffer is used only during the call.
        unsafe bytes.withUnsafeBytes { buffer in unsafe write(at: offset, from: buffer) }
    }

    /// Copies up to `count` bytes of the readable part to a new array.
    public func readBytes(at offset: UInt64, count: Int) -> [UInt8] {
        let left = offset < readableLength ? readableLength - offset : 0
        let size = Int(min(left, UInt64(max(count, 0))))
        // SAFETY: the buffer has room for `size` bytes and is filled from its start.
        return unsafe [UInt8](unsafeUninitializedCapacity: size) { buffer, initialized in
            unsafe initialized = read(at: offset, into: UnsafeMutableRawBufferPointer(buffer))
        }
    }

    /// A value from the readable part, in host byte order; `nil` where the part is too short.
    @inlinable
    public func read<T: FixedWidthInteger & BitwiseCopyable>(
        at offset: UInt64, as type: T.Type
    ) -> T? {
        var value: T = 0
        // SAFETY: the buffer is the value's own bytes.
        let copied = unsafe withUnsafeMutableBytes(of: &value) { bytes in
            unsafe read(at: offset, into: bytes)
        }
        return copied == MemoryLayout<T>.size ? value : nil
    }

    /// Writes a value to the writable part, in host byte order.
    /// - Returns: whether there was room for all of it.
    @inlinable
    @discardableResult
    public func write<T: FixedWidthInteger & BitwiseCopyable>(at offset: UInt64, _ value: T) -> Bool
    {
        // SAFETY: the buffer is the value's own bytes.
        unsafe withUnsafeBytes(of: value) { bytes in
            unsafe write(at: offset, from: bytes) == bytes.count
        }
    }

    /// Copies between a buffer and the pieces `first..<end`, from byte `offset` of these.
    // SAFETY: pieces are mapped memory of their length, and each copy is cut to the piece and the
    // buffer. Guest memory and the buffer do not overlap; memcpy reads each byte once.
    private func copy(
        _ direction: Direction, _ first: Int, _ end: Int, _ offset: UInt64,
        _ buffer: UnsafeMutableRawBufferPointer
    ) -> Int {
        guard let base = buffer.baseAddress else { return 0 }
        let pieces = unsafe storage.pointee.pieces
        var skip = offset
        var done = 0
        for index in first..<end where done < buffer.count {
            let piece = unsafe pieces[index]
            guard skip < piece.length else {
                skip -= piece.length
                continue
            }
            let size = Int(min(piece.length - skip, UInt64(buffer.count - done)))
            let host = unsafe piece.host + Int(skip)
            switch direction {
            case .toHost: unsafe memcpy(base + done, host, size)
            case .toGuest: unsafe memcpy(host, base + done, size)
            }
            done += size
            skip = 0
        }
        return done
    }
}
