internal import CLinux

/// How many mappings of the process windows may take, all that share it together: Linux allows a
/// process 65530 (vm.max_map_count), and all else that it does needs some as well.
// SAFETY: what `left` points to lives as long as this object, and is used under the windows' lock
// (CLinux/window.c) only.
@safe package final class MappingBudget: Sendable {
    /// The process's own. Two windows of the largest size need 32768 if Linux's driver has filled them,
    /// whose pieces are of 2 MiB.
    package static let process = MappingBudget(40_000)

    package let limit: Int
    // SAFETY: as at the type.
    nonisolated(unsafe) let left: UnsafeMutablePointer<Int32>

    package init(_ limit: Int32) {
        self.limit = Int(limit)
        unsafe left = .allocate(capacity: 1)
        unsafe left.initialize(to: limit)
    }

    /// How many are taken at present.
    package var used: Int {
        // SAFETY: as at the type.
        unsafe limit - Int(clinux_windows_left(left))
    }

    deinit { unsafe left.deallocate() }
}
