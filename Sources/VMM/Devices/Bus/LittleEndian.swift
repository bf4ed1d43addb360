extension [UInt8] {
    /// Appends a number's bytes, the lowest first.
    mutating func appendLittleEndian(_ value: some FixedWidthInteger & UnsignedInteger) {
        for shift in stride(from: 0, to: value.bitWidth, by: 8) {
            append(UInt8(truncatingIfNeeded: value >> shift))
        }
    }

    /// The number in the `size` (at most 8) bytes from `offset`, the lowest first. Bytes past the
    /// end count as zero.
    func littleEndian(_ offset: Int, size: Int) -> UInt64 {
        var value: UInt64 = 0
        for index in 0..<Swift.min(size, 8) where indices.contains(offset &+ index) {
            value |= UInt64(self[offset + index]) << (8 * UInt64(index))
        }
        return value
    }
}
