internal import CLinux
internal import Core
internal import Glibc

// The content of files. Data goes straight between files and the driver's buffers.
extension FSWorker {
    func read() throws(FUSEError) -> Outcome {
        let file = try file()
        let offset = try self.offset()
        let size = UInt64(try request.next(UInt32.self))
        let header = UInt64(FUSELimit.replyHeader)
        guard chain.writableLength >= header else { throw .invalid }
        let room = chain.writableLength - header
        if !isBegun {
            chain.trimWritable(first: header)
            if let count = copyFromWindow(file, UInt64(offset), min(size, room)) {
                return .data(UInt32(clamping: count))
            }
            if room > size { chain.trimWritable(last: room - size) }
        }
        let parts = unsafe chain.writable
        guard let first = parts.baseAddress, !parts.isEmpty else { return .data(0) }
        let read = { (flags: Int32) -> Int in
            // SAFETY: the parts are memory of the guest, whose mappings the chain's queue holds.
            unsafe clinux_preadv(
                file.fd, first, min(Int32(clamping: parts.count), CLINUX_IOV_MAX), offset, flags)
        }
        if leavesSlow {
            let count = read(CLINUX_RWF_NOWAIT)
            if count == -Int(EAGAIN) { return .left }
            if count >= 0, isWhole(file, UInt64(offset), min(size, room), count) {
                return .data(UInt32(clamping: count))
            }
            if count >= 0 { return .left }
        }
        return .data(UInt32(clamping: try fuseChecking(read(0))))
    }

    /// Whether a read that does not wait has got all that there is.
    private func isWhole(_ file: OpenFile, _ offset: UInt64, _ size: UInt64, _ count: Int) -> Bool {
        if UInt64(count) >= size { return true }
        guard let end = try? FileStatus.of(file.fd).size else { return false }
        return offset + UInt64(count) >= end
    }

    /// Reads much of what the host has in memory.
    /// - Returns: how many bytes; `nil` if they are to be read in another way.
    private func copyFromWindow(_ file: OpenFile, _ offset: UInt64, _ size: UInt64) -> Int? {
        guard size >= UInt64(FileWindow.smallestRead), size <= UInt64(FUSELimit.transfer),
            let end = try? FileStatus.of(file.fd).size, end > offset,
            let window = file.window(offset, in: fileSystem.windows)
        else { return nil }
        let count = Int(min(size, end - offset))
        let isWhole = unsafe window.copy(offset, count) { bytes in
            _ = unsafe chain.write(at: UInt64(FUSELimit.replyHeader), from: bytes)
        }
        return isWhole ? count : nil
    }

    func write() throws(FUSEError) {
        let file = try file()
        let offset = try self.offset()
        let size = UInt64(try request.next(UInt32.self))
        let dropsSetID = try request.next(UInt32.self) & FUSEDropSetID.writing != 0
        let header = UInt64(FUSELimit.requestHeader + FUSELimit.writeArguments)
        guard chain.readableLength >= header, chain.readableLength - header == size else {
            throw .invalid
        }
        chain.trimReadable(first: header)
        let parts = unsafe chain.readable
        var count: Int64 = 0
        if let first = parts.baseAddress, !parts.isEmpty {
            // SAFETY: as in `read`.
            let write = {
                unsafe clinux_pwritev(
                    file.fd, first, min(Int32(clamping: parts.count), CLINUX_IOV_MAX), offset, 0)
            }
            count = try asWriter(dropsSetID: dropsSetID) { () throws(FUSEError) in
                try fuseChecking(
                    file.appends ? try append(file, Int64(size), write) : Int64(write()))
            }
        }
        reply.put(UInt32(clamping: count))
        reply.put(0 as UInt32)
    }

    /// A write to the end, wherever that is: if it is done again, it is done twice.
    private func append(
        _ file: OpenFile, _ size: Int64, _ write: () -> Int
    ) throws(FUSEError) -> Int64 {
        try task.change { () throws(FUSEError) in
            try FileStatus.of(file.fd).size
        } wasMade: { _, before in
            guard let now = try? FileStatus.of(file.fd).size, now > before else { return nil }
            return min(Int64(clamping: now - before), size)
        } _: {
            Int64(write())
        }
    }

    /// The next number, an offset in a file.
    private func offset() throws(FUSEError) -> Int64 {
        guard let offset = Int64(exactly: try request.next(UInt64.self)) else { throw .invalid }
        return offset
    }

    func sync() throws(FUSEError) {
        let file = try file()
        try fuseChecking(clinux_sync(file.fd, Int32(try request.next(UInt32.self) & 1)))
    }

    func allocate() throws(FUSEError) {
        let file = try file()
        let offset = try self.offset()
        let length = try self.offset()
        let mode = try request.next(UInt32.self)
        guard let mode = Int32(exactly: mode) else { throw FUSEError(EOPNOTSUPP) }
        try fuseChecking(clinux_fallocate(file.fd, mode, offset, length))
    }

    /// LSEEK: where data or a hole begins.
    func seek() throws(FUSEError) {
        let file = try file()
        let offset = try self.offset()
        let whence = try request.next(UInt32.self)
        // SEEK_DATA and SEEK_HOLE; the rest is the driver's own business.
        guard whence == 3 || whence == 4 else { throw .invalid }
        reply.put(UInt64(try fuseChecking(clinux_seek(file.fd, offset, Int32(whence)))))
    }

    func copyRange() throws(FUSEError) {
        let source = try file()
        let sourceOffset = try self.offset()
        let targetNode = try request.next(UInt64.self)
        let target = try fileSystem.handles.file(
            try request.next(UInt64.self), of: targetNode)
        fileSystem.watch?.change(targetNode)
        let targetOffset = try self.offset()
        let length = try request.next(UInt64.self)
        guard try request.next(UInt64.self) == 0 else { throw .invalid }
        // The reply has 32 bits, and nobody may keep the thread for long.
        let size = Int(min(length, 1 << 30))
        let count = try fuseChecking(
            clinux_copy_range(source.fd, sourceOffset, target.fd, targetOffset, size))
        reply.put(UInt32(clamping: count))
        reply.put(0 as UInt32)
    }

    func syncFileSystem() throws(FUSEError) {
        let node = try node()
        guard node.isFolder || node.isRegular else { throw .invalid }
        let fd = OwnedFD(owning: try fuseChecking(clinux_reopen(node.fd, O_RDONLY)))
        try fuseChecking(clinux_sync_file_system(fd.rawValue))
    }
}
