internal import CLinux
internal import Core
internal import Glibc

/// Memory for bytes that nobody wants; none is taken before they come.
// SAFETY: the mapping lives as long as this object and is used as a place to write to only.
@safe final class ScratchPad {
    static let size = 1 << 16
    private let mapping = try? MemoryMapping(anonymous: ScratchPad.size)

    /// All of it, for a call that reads.
    var part: iovec {
        unsafe iovec(iov_base: mapping?.base, iov_len: mapping == nil ? 0 : Self.size)
    }
}
