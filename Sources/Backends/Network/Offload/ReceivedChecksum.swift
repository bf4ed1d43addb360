internal import CLinux
internal import Core
internal import Glibc

/// Checks the checksums of frames that have come, so that drivers need not.
enum ReceivedChecksum {
    /// VIRTIO_NET_HDR_F_DATA_VALID
    private static let isValid: UInt8 = 2
    private static let prefixLimit = 128

    /// The flags of the driver's header for a frame that lies in the window. A checksum that is wrong
    /// is left for the driver to find.
    static func flags(
        _ window: ReceiveWindow, headerSize: UInt64, frameLength: UInt64
    ) -> UInt8 {
        let listed = window.list(from: headerSize, byteCount: frameLength)
        guard UInt64(listed.bytes) == frameLength else { return 0 }
        return unsafe withUnsafeTemporaryAllocation(
            byteCount: Self.prefixLimit, alignment: 8
        ) { prefix in
            let count = unsafe copy(window.parts, listed.parts, to: prefix)
            let bytes = unsafe UnsafeRawBufferPointer(rebasing: prefix[..<count])
            guard
                let layout = unsafe PacketLayout(
                    bytes, frameLength: Int(frameLength), trustsLength: true),
                unsafe layout.hasChecksum(bytes)
            else { return 0 }
            var sum = unsafe layout.pseudoChecksum(
                bytes.baseAddress.unsafelyUnwrapped, length: layout.end - layout.transport)
            unsafe add(
                window.parts, listed.parts, from: layout.transport, to: layout.end, &sum)
            return sum.complement == 0 ? Self.isValid : 0
        }
    }

    private static func copy(
        _ parts: UnsafeMutablePointer<iovec>, _ count: Int, to buffer: UnsafeMutableRawBufferPointer
    ) -> Int {
        var done = 0
        for index in 0..<count where done < buffer.count {
            let part = unsafe parts[index]
            let size = unsafe min(part.iov_len, buffer.count - done)
            // SAFETY: parts are mapped memory of their length, and `size` fits in the buffer's rest.
            unsafe memcpy(buffer.baseAddress.unsafelyUnwrapped + done, part.iov_base, size)
            done += size
        }
        return done
    }

    /// Adds the bytes from `start` to `end` of all parts.
    private static func add(
        _ parts: UnsafeMutablePointer<iovec>, _ count: Int, from start: Int, to end: Int,
        _ sum: inout InternetChecksum
    ) {
        var position = 0
        for index in 0..<count where position < end {
            let part = unsafe parts[index]
            let length = unsafe part.iov_len
            let first = max(start - position, 0)
            let last = min(end - position, length)
            if first < last {
                // SAFETY: the range lies inside the part.
                unsafe sum.add(
                    UnsafeRawBufferPointer(start: part.iov_base + first, count: last - first))
            }
            position += length
        }
    }
}

extension PacketLayout {
    /// UDP over IPv4 may come without.
    func hasChecksum(_ bytes: UnsafeRawBufferPointer) -> Bool {
        if kind == .tcp { return true }
        return unsafe bytes.loadUnaligned(fromByteOffset: checksumField, as: UInt16.self) != 0
    }
}
