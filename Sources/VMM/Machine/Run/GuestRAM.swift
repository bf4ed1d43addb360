internal import Core

/// The guest's memory, as a memory map wants it.
enum GuestRAM {
    static func make(_ options: MemoryOptions, _ map: MemoryMap) throws(BootError) -> GuestMemory {
        do {
            let file = try MemFD(
                name: "apus-ram", size: options.size, hugePageShift: options.hugePageShift)
            let fd = SharedFD(try file.fd.duplicate())
            var regions: [GuestRegion] = []
            var offset: UInt64 = 0
            for range in [map.lowRAM, map.highRAM].compactMap({ $0 }) {
                let mapping = try MemoryMapping(
                    sharing: fd.rawValue, offset: offset, size: Int(range.size))
                let region = GuestRegion(
                    start: range.address, size: range.size, mapping: mapping, file: fd,
                    fileOffset: offset)
                if let region { regions.append(region) }
                offset += range.size
            }
            return try GuestMemory(regions)
        } catch {
            throw BootError(
                "the guest's memory (\(options.size >> 20) MiB) cannot be had: \(error)")
        }
    }
}
