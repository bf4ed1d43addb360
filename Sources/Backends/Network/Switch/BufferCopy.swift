internal import CLinux
internal import Core
internal import Glibc

/// Fills a window's buffers, one after the other.
// SAFETY: the window lists parts for all bytes that are put; whoever puts them sees to that.
@unsafe struct BufferCopy {
    private let parts: UnsafeMutablePointer<iovec>
    private let count: Int
    private var part = 0
    private var offset = 0

    /// Begins with the header of virtio.
    init(
        _ window: ReceiveWindow, byteCount: UInt64, header: (UInt64, UInt16), size: UInt64
    ) {
        unsafe parts = window.parts
        unsafe count = window.list(from: 0, byteCount: byteCount).parts
        var bytes = (header.0.littleEndian, UInt32(header.1).littleEndian)
        unsafe withUnsafeBytes(of: &bytes) { bytes in
            if let base = bytes.baseAddress { unsafe put(base, Int(size)) }
        }
    }

    mutating func put(_ bytes: UnsafeRawPointer, _ byteCount: Int) {
        var from = unsafe bytes
        var left = byteCount
        while left > 0, unsafe part < count {
            let target = unsafe parts[part]
            let size = unsafe min(left, target.iov_len - offset)
            if let base = unsafe target.iov_base { unsafe memcpy(base + offset, from, size) }
            unsafe from += size
            left -= size
            unsafe offset += size
            if unsafe offset == target.iov_len {
                unsafe part += 1
                unsafe offset = 0
            }
        }
    }
}
