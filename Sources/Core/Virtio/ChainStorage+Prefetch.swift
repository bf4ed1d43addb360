// Apart from the storage itself: `iovec`, which that shows, is Glibc's and CLinux's, and belongs to
// the one that the compiler loads first.
internal import CLinux

extension ChainStorage {
    /// Has the processor fetch the beginning of the first buffer: a header of up to 128 bytes that is
    /// about to be read, or written.
    @inline(__always)
    func prefetch() {
        guard count > 0 else { return }
        // SAFETY: a prefetch does not touch what is not there.
        let start = unsafe pieces[0].host
        if readableCount > 0 {
            unsafe clinux_prefetch(start)
            unsafe clinux_prefetch(start + 64)
        } else {
            unsafe clinux_prefetch_write(start)
            unsafe clinux_prefetch_write(start + 64)
        }
    }
}
