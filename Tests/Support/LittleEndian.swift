/// The bytes of numbers, one after the other, in little-endian order.
package func littleEndian<T: FixedWidthInteger>(_ numbers: T...) -> [UInt8] {
    numbers.flatMap { number in
        (0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
    }
}
