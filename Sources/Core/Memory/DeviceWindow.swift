/// The memory that a device shares with its driver: a window with one or more regions, which the
/// driver tells apart by number (VIRTIO 1.3, section 2.10).
package struct DeviceWindow: Sendable {
    package struct Region: Equatable, Sendable {
        package var id: UInt8
        /// In the window, in bytes.
        package var offset: UInt64
        package var size: UInt64

        package init(id: UInt8, offset: UInt64, size: UInt64) {
            self.id = id
            self.offset = offset
            self.size = size
        }
    }

    /// Where regions begin: Linux wants sections of this size for memory that comes later.
    private static let alignment: UInt64 = 2 << 20
    /// The most that a window may have: as much as there are addresses for.
    package static let maximumSize: UInt64 = 32 << 30

    package let memory: SharedWindow
    package let regions: [Region]

    /// - Parameter sizes: of the regions by number; 0: there is none. Not all are zero.
    package init(sizes: [UInt64]) throws(SystemError) {
        var regions: [Region] = []
        var end: UInt64 = 0
        for (id, size) in sizes.enumerated() where size > 0 {
            regions.append(Region(id: UInt8(clamping: id), offset: end, size: size))
            end = (end + size + Self.alignment - 1) & ~(Self.alignment - 1)
        }
        self.regions = regions
        // The size of a PCI device's memory is a power of two.
        var size = Self.alignment
        while size < end { size *= 2 }
        memory = try SharedWindow(size: size)
    }

    /// Whether a window can have regions of these sizes.
    package static func allows(_ sizes: [UInt64]) -> Bool {
        var left = maximumSize
        for size in sizes {
            guard size % SharedWindow.pageSize == 0, size <= left else { return false }
            // With what lies between two.
            left -= min(left, (size + alignment - 1) & ~(alignment - 1))
        }
        return sizes.count <= 256
    }

    /// The place in the window of a part of a region; `nil` if it is not all inside.
    package func offset(region id: UInt8, _ offset: UInt64, _ size: UInt64) -> UInt64? {
        guard let region = regions.first(where: { $0.id == id }), offset <= region.size,
            size <= region.size - offset
        else { return nil }
        return region.offset + offset
    }
}
