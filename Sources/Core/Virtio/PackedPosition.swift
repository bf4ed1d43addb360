/// A place in a packed ring, and which lap it is in.
struct PackedPosition {
    var index: UInt16
    /// 0x8000 or 0, the wrap counter as it stands in bit 15.
    var wrap: UInt16

    @inline(__always)
    init(_ raw: UInt16) {
        index = raw & 0x7fff
        wrap = raw & 0x8000
    }

    @inline(__always)
    var raw: UInt16 { index | wrap }

    /// - Parameter count: at most `size`.
    @inline(__always)
    mutating func advance(_ count: UInt16, size: UInt16) {
        index &+= count
        if index >= size {
            index &-= size
            wrap ^= 0x8000
        }
    }

    /// The descriptors from here to another place that is not before this one; `nil` where these are
    /// not places of one ring.
    func distance(to other: PackedPosition, size: UInt16) -> UInt16? {
        guard other.index < size, index < size else { return nil }
        if other.wrap == wrap { return index <= other.index ? other.index &- index : nil }
        return other.index <= index ? size &- (index &- other.index) : nil
    }
}
