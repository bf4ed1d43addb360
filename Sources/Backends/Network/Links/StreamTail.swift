internal import CLinux
internal import Core
internal import Glibc

/// The rest of a frame that has been sent in part, from before its pair of queues was stopped.
struct StreamTail {
    var bytes: [UInt8] = []

    /// Takes over what is left of the frame that is on its way.
    mutating func keep(from batch: TransmitBatch) {
        guard batch.isTorn else { return }
        for index in batch.next..<batch.nextEnd {
            // SAFETY: the parts are memory that the batch's chains keep mapped.
            let part = unsafe batch.parts[index]
            unsafe bytes += UnsafeRawBufferPointer(start: part.iov_base, count: part.iov_len)
        }
        batch.advanceFrame()
    }

    /// - Returns: `lost` if the socket is of no more use.
    mutating func send(to fd: Int32) -> SendResult {
        while !bytes.isEmpty {
            // SAFETY: the bytes live for the call.
            let sent = unsafe bytes.withUnsafeMutableBytes { bytes in
                var part = unsafe iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
                return unsafe clinux_send_parts(fd, &part, 1)
            }
            if sent == -Int(EAGAIN) { return .blocked }
            guard sent >= 0 else { return .lost }
            bytes.removeFirst(sent)
        }
        return .done
    }

    mutating func clear() { bytes = [] }
}
