internal import Core
internal import Glibc

/// What a driver has mapped into its window (VIRTIO 1.3, section 5.11.6.4): pieces of files, which
/// the front end shows there. A mapping takes the place of those that it overlaps; of one that is
/// covered in part, the rest stays.
///
/// It outlives connections, resets and, by the ledger, the process: the driver does not map again.
/// Our own front end keeps the window when a process is lost; others may not, so all is mapped again.
final class MappingTable: Sendable {
    struct Mapping: Equatable {
        /// In the window, in bytes.
        var start: UInt64
        var size: UInt64
        var fileOffset: UInt64
        var node: UInt64
        var isWritable: Bool
        /// Its place in the ledger.
        fileprivate(set) var slot = 0

        var end: UInt64 { start + size }

        /// The part between two places, which are inside.
        fileprivate func part(_ start: UInt64, _ end: UInt64) -> Mapping {
            var part = self
            part.start = start
            part.size = end - start
            part.fileOffset += start - self.start
            return part
        }

        fileprivate var piece: SharedMemoryPiece {
            SharedMemoryPiece(
                region: MappingTable.region, offset: start, size: size, fileOffset: fileOffset,
                isWritable: isWritable)
        }

        static func == (a: Mapping, b: Mapping) -> Bool { a.piece == b.piece && a.node == b.node }
    }

    private struct State {
        /// In the order of their places; they do not overlap.
        var mappings: [Mapping] = []
        var channel: (any SharedMemoryChannel)?
        /// What is known has to be mapped again, because there is another front end.
        var mustRestore = false
        var freeSlots: [Int] = []
        var usedSlots = 0
    }

    /// Opens a file for mapping; `nil` if that is not possible any more.
    typealias Open = (_ node: UInt64, _ isWritable: Bool) -> SharedFD?

    /// VIRTIO_FS_SHMCAP_ID_CACHE
    private static let region: UInt8 = 0
    static let pageSize = SharedWindow.pageSize

    let size: UInt64
    private let ledger: Ledger?
    private let state: Lock<State>

    /// - Parameter ledger: holds what is known already.
    init(size: UInt64, _ ledger: Ledger?) {
        self.size = size
        self.ledger = ledger
        var state = State()
        state.usedSlots = ledger?.mappingSlots ?? 0
        for slot in 0..<state.usedSlots {
            guard var mapping = ledger?.keptMapping(slot), mapping.size > 0,
                Self.fits(mapping.start, mapping.size, in: size)
            else {
                ledger?.forgetMapping(slot)
                state.freeSlots.append(slot)
                continue
            }
            mapping.slot = slot
            state.mappings.append(mapping)
        }
        state.mappings.sort { $0.start < $1.start }
        // The last thing that a process did may have been to put one in the place of others.
        var end: UInt64 = 0
        state.mappings.removeAll { mapping in
            if mapping.start >= end {
                end = mapping.end
                return false
            }
            ledger?.forgetMapping(mapping.slot)
            state.freeSlots.append(mapping.slot)
            return true
        }
        self.state = Lock(state)
    }

    private static func fits(_ start: UInt64, _ size: UInt64, in total: UInt64) -> Bool {
        start % pageSize == 0 && size % pageSize == 0 && size > 0 && start < total
            && size <= total - start
    }

    /// By whom mappings are made from now on; `nil`: they cannot be.
    func use(_ channel: (any SharedMemoryChannel)?) {
        state.withLock { state in
            state.channel = channel
            state.mustRestore = channel != nil && !state.mappings.isEmpty
        }
    }

    var isUsable: Bool { state.withLock { $0.channel != nil } }

    var all: [Mapping] { state.withLock { $0.mappings } }

    // MARK: Changes

    func add(_ new: Mapping, _ fd: SharedFD, _ open: Open) throws(FUSEError) {
        guard Self.fits(new.start, new.size, in: size), new.fileOffset % Self.pageSize == 0,
            new.fileOffset <= UInt64(Int64.max) - new.size
        else { throw .invalid }
        try state.withLock { state throws(FUSEError) in
            guard let channel = state.channel else { throw FUSEError(EIO) }
            let range = Self.overlapping(new.start, new.end, state)
            // One that is split becomes two.
            guard state.mappings.count - range.count + 3 <= Ledger.mappingLimit else {
                throw FUSEError(ENOMEM)
            }
            do throws(SharedMemoryError) {
                do throws(SharedMemoryError) {
                    try channel.map(new.piece, of: fd)
                } catch {
                    // Others want a place to be free first.
                    guard error == .refused, !range.isEmpty else { throw error }
                    clear(new.start, new.end, channel, &state, open)
                    try channel.map(new.piece, of: fd)
                }
            } catch {
                throw FUSEError(EIO)
            }
            cut(new.start, new.end, &state)
            insert(new, &state)
        }
    }

    func remove(_ start: UInt64, _ count: UInt64, _ open: Open) throws(FUSEError) {
        guard Self.fits(start, count, in: size) else { throw .invalid }
        try state.withLock { state throws(FUSEError) in
            guard state.mappings.count < Ledger.mappingLimit || start == 0 && count == size else {
                throw FUSEError(ENOMEM)
            }
            if let channel = state.channel {
                do {
                    try channel.unmap(
                        SharedMemoryPiece(region: Self.region, offset: start, size: count))
                } catch {
                    // Others want to hear of each mapping as a whole.
                    clear(start, start + count, channel, &state, open)
                }
            }
            cut(start, start + count, &state)
        }
    }

    /// Makes the window empty.
    func removeAll() {
        try? remove(0, size) { _, _ in nil }
    }

    /// Maps everything again, if there is another front end.
    func restore(_ open: Open) {
        state.withLock { state in
            guard state.mustRestore, let channel = state.channel else { return }
            state.mustRestore = false
            for mapping in state.mappings {
                let isThere = open(mapping.node, mapping.isWritable).map { fd in
                    Self.isMapped(mapping, fd, channel)
                }
                if isThere == true { continue }
                fsLog.guest("a part of a file that the guest has mapped cannot be mapped again")
                try? channel.unmap(mapping.piece)
                cut(mapping.start, mapping.end, &state)
            }
        }
    }

    private static func isMapped(
        _ mapping: Mapping, _ fd: SharedFD, _ channel: any SharedMemoryChannel
    ) -> Bool {
        if (try? channel.map(mapping.piece, of: fd)) != nil { return true }
        return (try? channel.unmap(mapping.piece)) != nil
            && (try? channel.map(mapping.piece, of: fd)) != nil
    }

    /// Has the front end take away what is mapped in a range, one by one, and map again what was not
    /// in it.
    private func clear(
        _ start: UInt64, _ end: UInt64, _ channel: any SharedMemoryChannel, _ state: inout State,
        _ open: Open
    ) {
        let range = Self.overlapping(start, end, state)
        let old = Array(state.mappings[range])
        cut(start, end, &state)
        for mapping in old {
            try? channel.unmap(mapping.piece)
            for rest in Self.rests(mapping, start, end) {
                guard let fd = open(rest.node, rest.isWritable),
                    (try? channel.map(rest.piece, of: fd)) != nil
                else {
                    cut(rest.start, rest.end, &state)
                    continue
                }
            }
        }
    }

    // MARK: The table

    private static func overlapping(
        _ start: UInt64, _ end: UInt64, _ state: State
    ) -> Range<Int> {
        let mappings = state.mappings
        let first = mappings.prefixCount { $0.end <= start }
        return first..<max(first, mappings.prefixCount { $0.start < end })
    }

    /// What is left of a mapping outside a range.
    private static func rests(_ mapping: Mapping, _ start: UInt64, _ end: UInt64) -> [Mapping] {
        var rests: [Mapping] = []
        if mapping.start < start { rests.append(mapping.part(mapping.start, start)) }
        if mapping.end > end { rests.append(mapping.part(end, mapping.end)) }
        return rests
    }

    /// Takes a range out of the table.
    private func cut(_ start: UInt64, _ end: UInt64, _ state: inout State) {
        let range = Self.overlapping(start, end, state)
        let old = Array(state.mappings[range])
        state.mappings.removeSubrange(range)
        for mapping in old {
            ledger?.forgetMapping(mapping.slot)
            state.freeSlots.append(mapping.slot)
            for rest in Self.rests(mapping, start, end) { insert(rest, &state) }
        }
    }

    private func insert(_ mapping: Mapping, _ state: inout State) {
        var mapping = mapping
        if let slot = state.freeSlots.popLast() {
            mapping.slot = slot
        } else {
            mapping.slot = state.usedSlots
            state.usedSlots += 1
        }
        let place = Self.overlapping(mapping.start, mapping.end, state).lowerBound
        state.mappings.insert(mapping, at: place)
        ledger?.note(mapping)
    }
}
