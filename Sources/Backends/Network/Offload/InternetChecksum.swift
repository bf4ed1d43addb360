internal import Glibc

/// The checksum of the internet protocols (RFC 1071): the sum of all 16-bit words, in ones'
/// complement. It does not depend on the order of bytes in the host's words, so none are swapped.
struct InternetChecksum {
    private var sum: UInt64 = 0
    private var isOdd = false

    init() {}

    /// Adds bytes, whose order matters: where one piece ends in the middle of a word, the next goes
    /// on there.
    mutating func add(_ bytes: UnsafeRawBufferPointer) {
        var sum: UInt64 = 0
        var index = 0
        while index + 8 <= bytes.count {
            // SAFETY: the eight bytes lie inside the buffer.
            let word = unsafe bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self)
            sum &+= word & 0xffff_ffff
            sum &+= word >> 32
            index += 8
        }
        while index + 2 <= bytes.count {
            sum &+= UInt64(
                unsafe bytes.loadUnaligned(fromByteOffset: index, as: UInt16.self).littleEndian)
            index += 2
        }
        if index < bytes.count { sum &+= unsafe UInt64(bytes[index]) }
        let folded = Self.fold(sum)
        self.sum &+= UInt64(isOdd ? folded.byteSwapped : folded)
        if bytes.count & 1 != 0 { isOdd.toggle() }
    }

    /// Adds a number of two bytes, of which the high one comes first; not in the middle of a word.
    mutating func add(_ number: UInt16) { sum &+= UInt64(number.bigEndian) }

    /// What is to be stored, as the host stores numbers.
    var complement: UInt16 { ~Self.fold(sum) }

    private static func fold(_ sum: UInt64) -> UInt16 {
        var sum = sum
        while sum >> 16 != 0 { sum = (sum & 0xffff) &+ (sum >> 16) }
        return UInt16(truncatingIfNeeded: sum)
    }
}
