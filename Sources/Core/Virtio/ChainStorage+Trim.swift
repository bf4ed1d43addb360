internal import Glibc

// The working copy that the device may cut down.
// SAFETY: all indices stay between the start and the end of their part.
extension ChainStorage {
    mutating func trimReadable(first byteCount: UInt64) {
        unsafe Self.trimFront(iovecs, &readableStart, readableEnd, byteCount)
    }

    mutating func trimWritable(first byteCount: UInt64) {
        unsafe Self.trimFront(iovecs, &writableStart, writableEnd, byteCount)
    }

    mutating func trimWritable(last byteCount: UInt64) {
        var left = byteCount
        while left > 0, writableEnd > writableStart {
            let length = unsafe UInt64(iovecs[writableEnd - 1].iov_len)
            if length > left {
                unsafe iovecs[writableEnd - 1].iov_len = Int(length - left)
                return
            }
            left -= length
            writableEnd -= 1
        }
    }

    private static func trimFront(
        _ iovecs: UnsafeMutablePointer<iovec>, _ start: inout Int, _ end: Int, _ byteCount: UInt64
    ) {
        var left = byteCount
        while left > 0, start < end {
            let length = unsafe UInt64(iovecs[start].iov_len)
            if length > left {
                unsafe iovecs[start].iov_base += Int(left)
                unsafe iovecs[start].iov_len = Int(length - left)
                return
            }
            left -= length
            start += 1
        }
    }
}
