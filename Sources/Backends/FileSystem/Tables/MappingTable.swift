internal import Core
internal import Glibc

/// What a driver has mapped into its window (VIRTIO 1.3, section 5.11.6.4): pieces of files, which
/// the front end shows there. A mapping takes the place of those that it overlaps; of one that is
/// covered in part, the rest stays.
///
/// It outlives connections, resets and, by the ledger or the state (FolderState.swift), the process:
/// the driver does not map again. Our own front end keeps the window when a process is lost; others
/// may not, so all is mapped again (MappingTable+Restoring.swift).
final class MappingTable: Sendable {
    struct Mapping: Equatable {
        /// In the window, in bytes.
        var start: UInt64
        var size: UInt64
        var fileOffset: UInt64
        var node: UInt64
        var isWritable: Bool
        /// Its place in the ledger.
        var slot = 0

        var end: UInt64 { start + size }

        /// The part between two places, which are inside.
        func part(_ start: UInt64, _ end: UInt64) -> Mapping {
            var part = self
            part.start = start
            part.size = end - start
            part.fileOffset += start - self.start
            return part
        }

        var piece: SharedMemoryPiece {
            SharedMemoryPiece(
                region: MappingTable.region, offset: start, size: size, fileOffset: fileOffset,
                isWritable: isWritable)
        }

        static func == (a: Mapping, b: Mapping) -> Bool { a.piece == b.piece && a.node == b.node }
    }

    struct State {
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
    static let region: UInt8 = 0
    static let pageSize = SharedWindow.pageSize

    let size: UInt64
    private let ledger: Ledger?
    let state: Lock<State>

    /// - Parameter ledger: holds what is known already.
    init(size: UInt64, _ ledger: Ledger?) {
        self.size = size
        self.ledger = ledger
        var state = State()
        state.usedSlots = ledger?.mappingSlots ?? 0
        for slot in 0..<state.usedSlots {
            guard var mapping = ledger?.keptMapping(slot), Self.allows(mapping, in: size) else {
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

    /// Whether there can be a mapping in a window of that size.
    static func allows(_ mapping: Mapping, in total: UInt64) -> Bool {
        fits(mapping.start, mapping.size, in: total) && mapping.fileOffset % pageSize == 0
            && mapping.fileOffset <= UInt64(Int64.max) - mapping.size
    }

    /// By whom mappings are made from now on; `nil`: they cannot be.
    func use(_ channel: (any SharedMemoryChannel)?) {
        state.withLock { state in
            state.channel = channel
            state.mustRestore = channel != nil && !state.mappings.isEmpty
        }
    }

    var isUsable: Bool { state.withLock { $0.channel != nil } }

    /// In the order of their places.
    var all: [Mapping] { state.withLock { $0.mappings } }

    /// Puts what another process's driver has mapped in the place of all that is mapped: in order,
    /// and each allowed. It is mapped again when a queue goes on.
    func replace(with known: [Mapping]) {
        state.withLock { state in
            cut(0, size, &state)
            for mapping in known { insert(mapping, &state) }
            state.mustRestore = state.channel != nil && !known.isEmpty
        }
    }

    // MARK: Changes

    func add(_ new: Mapping, _ fd: SharedFD, _ open: Open) throws(FUSEError) {
        guard Self.allows(new, in: size) else { throw .invalid }
        try state.withLock { state throws(FUSEError) in
            guard let channel = state.channel else { throw FUSEError(EIO) }
            let range = Self.overlapping(new.start, new.end, state)
            // One that is split becomes two.
            guard state.mappings.count - range.count + 3 <= Ledger.mappingLimit else {
                throw FUSEError(ENOMEM)
            }
            try asking(&state) { state throws(SharedMemoryError) in
                if try Self.isDone({ () throws(SharedMemoryError) in
                    try channel.map(new.piece, of: fd)
                }) {
                    return
                }
                // Others want a place to be free first.
                guard !range.isEmpty else { throw .refused }
                try clear(new.start, new.end, channel, &state, open)
                try channel.map(new.piece, of: fd)
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
                try asking(&state) { state throws(SharedMemoryError) in
                    let piece = SharedMemoryPiece(region: Self.region, offset: start, size: count)
                    if try Self.isDone({ () throws(SharedMemoryError) in
                        try channel.unmap(piece)
                    }) {
                        return
                    }
                    // Others want to hear of each mapping as a whole.
                    try clear(start, start + count, channel, &state, open)
                }
            }
            cut(start, start + count, &state)
        }
    }

    /// Makes the window empty, whoever may still show something there.
    func removeAll() {
        state.withLock { state in
            let whole = SharedMemoryPiece(region: Self.region, offset: 0, size: size)
            if let channel = state.channel, (try? channel.unmap(whole)) == nil {
                for mapping in state.mappings { try? channel.unmap(mapping.piece) }
            }
            cut(0, size, &state)
            state.mustRestore = false
        }
    }

    // MARK: The table

    static func overlapping(
        _ start: UInt64, _ end: UInt64, _ state: State
    ) -> Range<Int> {
        let mappings = state.mappings
        let first = mappings.prefixCount { $0.end <= start }
        return first..<max(first, mappings.prefixCount { $0.start < end })
    }

    /// What is left of a mapping outside a range.
    static func rests(_ mapping: Mapping, _ start: UInt64, _ end: UInt64) -> [Mapping] {
        var rests: [Mapping] = []
        if mapping.start < start { rests.append(mapping.part(mapping.start, start)) }
        if mapping.end > end { rests.append(mapping.part(end, mapping.end)) }
        return rests
    }

    /// Takes a range out of the table.
    func cut(_ start: UInt64, _ end: UInt64, _ state: inout State) {
        let range = Self.overlapping(start, end, state)
        let old = Array(state.mappings[range])
        state.mappings.removeSubrange(range)
        for mapping in old {
            ledger?.forgetMapping(mapping.slot)
            state.freeSlots.append(mapping.slot)
            for rest in Self.rests(mapping, start, end) { insert(rest, &state) }
        }
    }

    func insert(_ mapping: Mapping, _ state: inout State) {
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
