internal import Core
internal import Synchronization

/// A window as plain data, for the soft MMU.
// SAFETY: an entry is filled in before its size is stored; from then on only `start` changes.
@safe struct WindowEntry: ~Copyable {
    /// Where it is, or `WindowTable.nowhere`.
    let start: Atomic<UInt64>
    /// 0: this entry, and all that follow, are not in use.
    let size: Atomic<UInt64>
    var base: UnsafeMutableRawPointer?
    /// For each page, which CPUs have code of it, as in `CodePageMap`.
    var codeWords: UnsafeMutablePointer<Atomic<UInt64>>?
}

/// Memory that is not RAM and that the guest moves about: devices' windows. Each is searched when an
/// address is not RAM. CPUs read the table while it changes.
// SAFETY: the entries live as long as this object; what they refer to is kept by `kept`.
@safe final class WindowTable: @unchecked Sendable {
    static let capacity = 16
    /// No physical address.
    static let nowhere: UInt64 = 1 << 63

    let entries: UnsafeMutablePointer<WindowEntry>
    private let kept = Mutex<[(window: SharedWindow, codePages: MemoryMapping)]>([])

    init() {
        // One more, which ends the search.
        unsafe entries = .allocate(capacity: Self.capacity + 1)
        for index in 0...Self.capacity {
            unsafe (entries + index).initialize(
                to: WindowEntry(start: Atomic(Self.nowhere), size: Atomic(0)))
        }
    }

    deinit {
        unsafe entries.deinitialize(count: Self.capacity + 1)
        unsafe entries.deallocate()
    }

    /// - Returns: whether there was room.
    func place(_ window: SharedWindow, at address: GuestAddress?) -> Bool {
        kept.withLock { kept in
            let start = address?.rawValue ?? Self.nowhere
            if let index = kept.firstIndex(where: { $0.window === window }) {
                unsafe entries[index].start.store(start, ordering: .sequentiallyConsistent)
                return true
            }
            guard address != nil else { return true }
            guard kept.count < Self.capacity,
                let codePages = try? MemoryMapping(
                    anonymous: Int(window.size / SharedWindow.pageSize) * 8)
            else { return false }
            let entry = unsafe entries + kept.count
            kept.append((window, codePages))
            unsafe entry.pointee.base = window.base
            unsafe entry.pointee.codeWords = codePages.base.assumingMemoryBound(
                to: Atomic<UInt64>.self)
            unsafe entry.pointee.start.store(start, ordering: .sequentiallyConsistent)
            unsafe entry.pointee.size.store(window.size, ordering: .sequentiallyConsistent)
            return true
        }
    }
}

extension CPU {
    /// The window that holds `count` bytes from a physical address, and their place in it.
    @inline(__always)
    private func window(
        _ physical: UInt64, count: UInt64
    ) -> (entry: UnsafeMutablePointer<WindowEntry>, offset: UInt64)? {
        // SAFETY: the table ends with an entry of size 0.
        guard var entry = unsafe state.pointee.windows else { return nil }
        while true {
            let size = unsafe entry.pointee.size.load(ordering: .acquiring)
            if size == 0 { return nil }
            let offset = unsafe physical &- entry.pointee.start.load(ordering: .relaxed)
            if offset < size && count <= size - offset { return unsafe (entry, offset) }
            unsafe entry += 1
        }
    }

    /// The host address of `count` bytes in a window.
    @inline(never)
    func windowHost(_ physical: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
        // SAFETY: the range lies in the window, whose memory the table keeps.
        guard let found = unsafe window(physical, count: count),
            let base = unsafe found.entry.pointee.base
        else { return nil }
        return unsafe base + Int(found.offset)
    }

    /// The word that says which CPUs have code of a window's page.
    @inline(never)
    func windowCodeWord(_ physical: UInt64) -> UnsafeMutablePointer<Atomic<UInt64>>? {
        // SAFETY: there is a word for each page of the window.
        guard let found = unsafe window(physical, count: 1),
            let words = unsafe found.entry.pointee.codeWords
        else { return nil }
        return unsafe words + Int(found.offset >> 12)
    }
}
