internal import CLinux
internal import Core

/// The guest memory that a front end has shared, and the user addresses that it names it by.
struct MemoryTable {
    /// How many regions there may be once slots have been negotiated.
    static let maximumSlots = 64

    private struct Entry {
        let description: MemoryRegionDescription
        let region: GuestRegion
        /// How often it was added again, and has to be removed: QEMU 7.2 does so for each pair of a
        /// network device's queues.
        var repetitions: UInt32 = 0
    }

    private var entries: [Entry] = []
    /// The regions by guest address.
    private(set) var memory: GuestMemory?

    /// Signalled when a front end takes memory away.
    private let lossEvent: EventFD

    init(onLoss: EventFD) { lossEvent = onLoss }

    /// Maps all of a table.
    init(
        _ regions: [MemoryRegionDescription], _ fds: [SharedFD], onLoss: EventFD, message: String
    ) throws(ProtocolError) {
        self.init(onLoss: onLoss)
        guard regions.count == fds.count else {
            throw ProtocolError(
                message, "descriptors", "there are \(fds.count) for \(regions.count) regions")
        }
        for (description, fd) in zip(regions, fds) {
            try append(description, fd, message: message)
        }
    }

    /// Maps one more region, or notes that one is added again.
    mutating func add(
        _ description: MemoryRegionDescription, _ fd: SharedFD, message: String
    ) throws(ProtocolError) {
        guard let position = position(of: description) else {
            return try append(description, fd, message: message)
        }
        guard entries[position].repetitions < Self.maximumRepetitions else {
            throw ProtocolError(
                message, "guest address",
                "the region was added \(Self.maximumRepetitions) times already")
        }
        entries[position].repetitions += 1
    }

    /// More than there are queues.
    private static let maximumRepetitions: UInt32 = 1024

    private mutating func append(
        _ description: MemoryRegionDescription, _ fd: SharedFD, message: String
    ) throws(ProtocolError) {
        guard entries.count < Self.maximumSlots else {
            throw ProtocolError(
                message, "num regions", "there are \(Self.maximumSlots) regions already")
        }
        let entry = try map(description, fd, message: message)
        for other in entries where Self.overlap(other.description, description) {
            throw ProtocolError(message, "user address", "the region overlaps another one")
        }
        let memory = try Self.makeMemory((entries + [entry]).map { $0.region }, message: message)
        entries.append(entry)
        self.memory = memory
    }

    private func position(of description: MemoryRegionDescription) -> Int? {
        entries.firstIndex {
            $0.description.guestAddress == description.guestAddress
                && $0.description.userAddress == description.userAddress
                && $0.description.size == description.size
        }
    }

    /// Removes the region with these addresses and this size, as often as it was added.
    mutating func remove(
        _ description: MemoryRegionDescription, message: String
    ) throws(ProtocolError) {
        guard let position = position(of: description) else {
            throw ProtocolError(message, "guest address", "there is no such region")
        }
        if entries[position].repetitions > 0 {
            entries[position].repetitions -= 1
            return
        }
        entries.remove(at: position)
        memory =
            entries.isEmpty
            ? nil : try Self.makeMemory(entries.map { $0.region }, message: message)
    }

    /// The guest address of `count` bytes at a user address, if one region holds them all.
    func translate(_ userAddress: UInt64, count: UInt64) -> GuestAddress? {
        for entry in entries {
            let description = entry.description
            guard userAddress >= description.userAddress else { continue }
            let offset = userAddress - description.userAddress
            guard offset < description.size, count <= description.size - offset else { continue }
            return GuestAddress(description.guestAddress &+ offset)
        }
        return nil
    }

    /// The regions as the front end has described them, but for the addresses in this process in
    /// place of the front end's own.
    var ownAddresses: [MemoryRegionDescription] {
        entries.map { entry in
            var description = entry.description
            description.userAddress = UInt64(unsafe UInt(bitPattern: entry.region.base))
            return description
        }
    }

    func ownAddress(of description: MemoryRegionDescription) -> MemoryRegionDescription? {
        position(of: description).map { ownAddresses[$0] }
    }

    /// Where the regions are mapped that `other` does not have.
    func mappings(besides other: MemoryTable) -> [MemoryMapping] {
        entries.map { $0.region.mapping }.filter { mapping in
            !other.entries.contains { $0.region.mapping === mapping }
        }
    }

    /// A region whose memory the front end has taken away.
    var lostRegion: MemoryRegionDescription? {
        entries.first { $0.region.mapping.isLost }?.description
    }

    private func map(
        _ description: MemoryRegionDescription, _ fd: SharedFD, message: String
    ) throws(ProtocolError) -> Entry {
        guard description.size > 0 else {
            throw ProtocolError(message, "region size", "it is zero")
        }
        for (name, start) in [
            ("guest address", description.guestAddress), ("user address", description.userAddress),
        ] where start.addingReportingOverflow(description.size - 1).overflow {
            throw ProtocolError(message, name, "the region wraps around")
        }
        do {
            let part = try MemoryMapping.part(
                of: fd.rawValue, offset: description.mmapOffset, size: description.size,
                onLoss: lossEvent)
            let region = GuestRegion(
                start: GuestAddress(description.guestAddress), size: description.size,
                mapping: part.mapping, mappingOffset: part.offset)
            guard let region else {
                throw ProtocolError(message, "region size", "it cannot be mapped")
            }
            return Entry(description: description, region: region)
        } catch let error as SystemError where error.code == EOVERFLOW {
            throw ProtocolError(
                message, "region size",
                "the front end's memory file is shorter than its region, \(description.size) bytes "
                    + "at offset \(description.mmapOffset)")
        } catch let error as SystemError {
            throw ProtocolError(
                message, "mmap offset",
                "\(description.size) bytes at offset \(description.mmapOffset) cannot be mapped: "
                    + error.reason)
        } catch let error as ProtocolError {
            throw error
        } catch {
            throw ProtocolError(message, "mmap offset", "\(error)")
        }
    }

    private static func overlap(
        _ a: MemoryRegionDescription, _ b: MemoryRegionDescription
    ) -> Bool {
        // Neither region wraps around.
        a.userAddress <= b.userAddress &+ (b.size &- 1)
            && b.userAddress <= a.userAddress &+ (a.size &- 1)
    }

    private static func makeMemory(
        _ regions: [GuestRegion], message: String
    ) throws(ProtocolError) -> GuestMemory {
        do {
            return try GuestMemory(regions)
        } catch {
            throw ProtocolError(message, "guest address", "\(error)")
        }
    }
}
