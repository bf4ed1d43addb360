/// A device's configuration space: its fields in little-endian order (VIRTIO 1.3, section 2.5).
/// Fields that nobody stores read as zero.
package struct ConfigSpace: Sendable {
    package private(set) var bytes: [UInt8]

    package init(size: Int) { bytes = [UInt8](repeating: 0, count: size) }

    /// Stores a field, which must lie in the space.
    package mutating func store<T: FixedWidthInteger>(_ value: T, at offset: Int) {
        for index in 0..<T.bitWidth / 8 {
            bytes[offset + index] = UInt8(truncatingIfNeeded: value >> T(8 * index))
        }
    }

    /// Stores a field of bytes, which must lie in the space.
    package mutating func store(_ value: [UInt8], at offset: Int) {
        bytes.replaceSubrange(offset..<offset + value.count, with: value)
    }

    /// What a driver reads at an offset and in an amount that it chose; less where the space ends.
    package func read(offset: Int, count: Int) -> [UInt8] {
        guard count > 0, bytes.indices.contains(offset) else { return [] }
        return Array(bytes[offset...].prefix(count))
    }
}
