import TestSupport

/// Writes down choices for a `FuzzInput` to read.
struct FuzzSeed {
    private(set) var bytes: [UInt8] = []

    /// What `below(count)`, `pick` of so many and `rarely(count)` read.
    mutating func choose(_ index: Int, of count: Int) {
        if count <= 1 { return }
        if count <= 1 << 8 {
            put(UInt8(index))
        } else if count <= 1 << 16 {
            put(UInt16(index))
        } else {
            put(UInt32(index))
        }
    }

    mutating func put(_ flag: Bool) { put(flag ? 1 : 0 as UInt8) }

    mutating func put<T: FixedWidthInteger>(_ number: T) { bytes += littleEndian(number) }

    /// What `edge()` reads.
    mutating func putEdge(_ number: UInt64) {
        choose(3, of: 4)
        put(number)
    }

    mutating func put(_ more: [UInt8]) { bytes += more }

    /// The ordinary choices.
    mutating func putZeroes(_ count: Int) { bytes += [UInt8](repeating: 0, count: count) }

    static func make(_ write: (inout FuzzSeed) -> Void) -> [UInt8] {
        var seed = FuzzSeed()
        write(&seed)
        return seed.bytes
    }
}
