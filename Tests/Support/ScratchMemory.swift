public import Core

/// Guest memory for a test: regions that are backed by memory files of their own, and an allocator
/// that hands out addresses in them and takes none back.
public final class ScratchMemory {
    public let memory: GuestMemory
    private var region = 0
    private var next: UInt64

    /// Hands out what is in `memory`.
    public init(_ memory: GuestMemory) {
        self.memory = memory
        next = memory.regions.first?.start.rawValue ?? 0
    }

    /// Makes one region for each start and size; sizes are multiples of 4096.
    public convenience init(_ windows: [(start: UInt64, size: UInt64)]) throws {
        var regions: [GuestRegion] = []
        for (start, size) in windows {
            let file = try MemFD(name: "scratch", size: size)
            let fd = SharedFD(try file.fd.duplicate())
            let mapping = try MemoryMapping(sharing: fd.rawValue, size: Int(size))
            guard
                let region = GuestRegion(
                    start: GuestAddress(start), size: size, mapping: mapping, file: fd)
            else { throw GuestMemoryError.outOfRange(GuestAddress(start), count: size) }
            regions.append(region)
        }
        self.init(try GuestMemory(regions))
    }

    /// One region of `size` bytes at 1 MiB.
    public convenience init(size: UInt64 = 1 << 20) throws {
        try self.init([(start: 1 << 20, size: size)])
    }

    /// Takes `count` bytes that nothing else uses, all in one region.
    public func allocate(_ count: Int, alignment: UInt64 = 16) -> GuestAddress {
        while region < memory.regions.count {
            let here = memory.regions[region]
            let start = (next + alignment - 1) / alignment * alignment
            if here.contains(GuestAddress(start), count: UInt64(max(count, 1))) {
                next = start + UInt64(count)
                return GuestAddress(start)
            }
            region += 1
            if region < memory.regions.count { next = memory.regions[region].start.rawValue }
        }
        preconditionFailure("the scratch memory is too small for \(count) more bytes")
    }

    /// Takes memory for bytes and writes them there.
    public func place(_ bytes: [UInt8]) -> DriverBuffer {
        let address = allocate(bytes.count)
        do { try memory.write(address, bytes) } catch { preconditionFailure("\(error)") }
        return DriverBuffer(address, UInt32(bytes.count))
    }

    /// Takes memory for a buffer.
    public func buffer(_ count: Int) -> DriverBuffer {
        DriverBuffer(allocate(count), UInt32(count))
    }

    /// What a buffer holds.
    public func bytes(_ buffer: DriverBuffer) -> [UInt8] {
        do {
            return try memory.readBytes(buffer.address, count: Int(buffer.length))
        } catch { preconditionFailure("\(error)") }
    }
}
