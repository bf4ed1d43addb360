internal import Core

/// The memory in which all queues note what is in flight, as a front end keeps it.
struct InflightArea {
    let description: InflightDescription
    private let mapping: MemoryMapping
    private let offset: Int

    /// Makes a new one.
    /// - Returns: it, and the file to be given to the front end.
    static func make(
        queueCount: UInt16, queueSize: UInt16
    ) throws(SystemError) -> (area: InflightArea, fd: SharedFD) {
        // Whether the rings will be packed may not be known yet; those need more.
        let size = Int(queueCount) * InflightRegion.byteCount(entries: queueSize, isPacked: true)
        let file = try MemFD(name: "vhost-inflight", size: UInt64(size))
        let fd = SharedFD(try file.fd.duplicate())
        let mapping = try MemoryMapping(sharing: fd.rawValue, size: size)
        let description = InflightDescription(
            mmapSize: UInt64(size), mmapOffset: 0, queueCount: queueCount, queueSize: queueSize)
        return (InflightArea(description, mapping, offset: 0), fd)
    }

    /// Maps one that a front end has kept.
    init(
        _ description: InflightDescription, _ fd: SharedFD, isPacked: Bool, onLoss: EventFD,
        message: String
    ) throws(ProtocolError) {
        try Self.check(description, message: message)
        let entry = InflightRegion.byteCount(entries: description.queueSize, isPacked: isPacked)
        let needed = UInt64(description.queueCount) * UInt64(entry)
        guard description.mmapSize >= needed else {
            throw ProtocolError(
                message, "mmap size", "\(description.mmapSize) is less than \(needed)")
        }
        guard description.mmapOffset % 8 == 0 else {
            throw ProtocolError(message, "mmap offset", "it is not a multiple of 8")
        }
        do {
            let part = try MemoryMapping.part(
                of: fd.rawValue, offset: description.mmapOffset, size: description.mmapSize,
                onLoss: onLoss)
            self.init(description, part.mapping, offset: Int(truncatingIfNeeded: part.offset))
        } catch {
            throw ProtocolError(message, "mmap size", "it cannot be mapped: \(error.reason)")
        }
    }

    private init(_ description: InflightDescription, _ mapping: MemoryMapping, offset: Int) {
        self.description = description
        self.mapping = mapping
        self.offset = offset
    }

    /// Whether the front end has taken the memory away.
    var isLost: Bool { mapping.isLost }

    /// Checks what does not depend on the memory.
    static func check(_ description: InflightDescription, message: String) throws(ProtocolError) {
        guard description.queueCount > 0, description.queueCount <= 256 else {
            throw ProtocolError(message, "num queues", "\(description.queueCount) is not 1 to 256")
        }
        guard description.queueSize > 0, description.queueSize <= 32768 else {
            throw ProtocolError(
                message, "queue size", "\(description.queueSize) is not 1 to 32768")
        }
    }

    /// Where a packed queue's next used descriptor goes, as the area of a back end says that may be
    /// of any kind: so it is not mapped. `nil` where there is no history.
    static func packedNextUsed(
        _ description: InflightDescription, _ fd: SharedFD, queue: Int
    ) throws(SystemError) -> UInt16? {
        guard queue >= 0, queue < Int(description.queueCount) else { return nil }
        let size = InflightRegion.byteCount(entries: description.queueSize, isPacked: true)
        let (offset, overflow) = description.mmapOffset.addingReportingOverflow(
            UInt64(queue * size))
        guard !overflow else { return nil }
        return InflightRegion.packedNextUsed(
            try fd.read(InflightRegion.packedHeaderSize, at: offset),
            entries: description.queueSize)
    }

    /// Makes a queue have no history in an area that is not mapped.
    static func forget(
        _ description: InflightDescription, _ fd: SharedFD, queue: Int, isPacked: Bool
    ) throws(SystemError) {
        guard queue >= 0, queue < Int(description.queueCount) else { return }
        let size = InflightRegion.byteCount(entries: description.queueSize, isPacked: isPacked)
        let (offset, overflow) = description.mmapOffset.addingReportingOverflow(
            UInt64(queue * size))
        guard !overflow else { return }
        try fd.write(InflightRegion.noHistory, at: offset)
    }

    /// The part that belongs to a queue; `nil` where it has none.
    func region(queue: Int, isPacked: Bool) -> InflightRegion? {
        guard queue >= 0, queue < Int(description.queueCount) else { return nil }
        let size = InflightRegion.byteCount(entries: description.queueSize, isPacked: isPacked)
        return InflightRegion(
            mapping, offset: offset + queue * size, entries: description.queueSize,
            isPacked: isPacked)
    }
}
