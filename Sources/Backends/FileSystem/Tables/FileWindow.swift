internal import CLinux
internal import Core
internal import Synchronization

/// A part of an open file in memory. What the host has in its cache is copied from there in half the
/// time that a read takes (Benchmarks/README.md), if it is much.
///
/// Only of file systems whose cache is the truth about their files. The host may make the file
/// shorter at any time: then there are zeroes in the window's place, and it `isLost`.
final class FileWindow: Sendable {
    /// Reads of less than this are not worth it.
    static let smallestRead = 128 << 10
    private static let span: UInt64 = 64 << 20

    /// All windows of a file system: page tables take memory, and there are only so many mappings.
    final class Pool: Sendable {
        static let limit = 64
        fileprivate let count = Atomic<Int>(0)
        /// Is told of windows that are lost; whoever uses one looks itself.
        fileprivate let lossEvent: EventFD

        init() throws(SystemError) { lossEvent = try EventFD() }
    }

    private let pool: Pool
    private let mapping: MemoryMapping
    private let start: UInt64

    /// - Returns: `nil` if there can be none.
    init?(_ fd: Int32, around offset: UInt64, in pool: Pool) {
        start = offset / Self.span * Self.span
        guard pool.count.add(1, ordering: .relaxed).newValue <= Pool.limit,
            // Reads begin in the span, and may end behind it.
            let mapping = try? MemoryMapping(
                sharing: fd, offset: start, size: Int(Self.span) + Int(FUSELimit.transfer),
                isWritable: false, onLoss: pool.lossEvent)
        else {
            pool.count.subtract(1, ordering: .relaxed)
            return nil
        }
        self.mapping = mapping
        self.pool = pool
    }

    deinit { pool.count.subtract(1, ordering: .relaxed) }

    func covers(_ offset: UInt64) -> Bool { offset / Self.span * Self.span == start }

    /// Has `body` copy a part of the file that the window covers.
    /// - Returns: whether that is what the file holds.
    func copy(_ offset: UInt64, _ size: Int, _ body: (UnsafeRawBufferPointer) -> Void) -> Bool {
        let place = Int(offset - start)
        guard place <= mapping.size - size,
            unsafe clinux_is_resident(mapping.base, place, size) != 0
        else { return false }
        // SAFETY: the part lies in the mapping, which is guarded. Others may change it meanwhile, as
        // with any read.
        unsafe body(UnsafeRawBufferPointer(start: mapping.base + place, count: size))
        return !mapping.isLost
    }

    var isLost: Bool { mapping.isLost }

    /// Whether a file system's cache is the truth about its files: of those that are on this host.
    static func suits(_ fd: Int32) -> Bool {
        var space = clinux_space()
        guard unsafe clinux_space(fd, &space) == 0 else { return false }
        // tmpfs, ext4, XFS, btrfs, f2fs
        return [0x0102_1994, 0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010].contains(space.type)
    }
}
