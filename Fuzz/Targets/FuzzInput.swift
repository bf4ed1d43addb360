/// The bytes that the fuzzer made up, as a source of choices. Past the end everything is zero, and
/// zero is always the ordinary choice, so that short inputs do something sensible.
struct FuzzInput: Sendable {
    private let bytes: [UInt8]
    private var position = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var isEmpty: Bool { position >= bytes.count }

    mutating func byte() -> UInt8 {
        guard position < bytes.count else { return 0 }
        position += 1
        return bytes[position - 1]
    }

    mutating func number<T: FixedWidthInteger>(_: T.Type = T.self) -> T {
        var value: T = 0
        for index in 0..<T.bitWidth / 8 { value |= T(truncatingIfNeeded: byte()) << T(8 * index) }
        return value
    }

    /// A number below `limit`, which is not zero.
    mutating func below(_ limit: Int) -> Int {
        if limit <= 1 { return 0 }
        if limit <= 1 << 8 { return Int(byte()) % limit }
        if limit <= 1 << 16 { return Int(number(UInt16.self)) % limit }
        return Int(number(UInt32.self)) % limit
    }

    mutating func flag() -> Bool { byte() & 1 != 0 }

    /// True for one of `count` values, never past the end.
    mutating func rarely(_ count: Int) -> Bool { below(count) == count - 1 }

    mutating func pick<T>(_ choices: [T]) -> T { choices[below(choices.count)] }

    /// A number that is likely to lie at some edge.
    mutating func edge() -> UInt64 {
        switch below(4) {
        case 0: UInt64(byte())
        case 1: (1 as UInt64) << UInt64(below(64))
        case 2: ((1 as UInt64) << UInt64(below(64))) &- 1 &- UInt64(below(16))
        default: number()
        }
    }

    mutating func take(_ count: Int) -> [UInt8] {
        let end = min(position + max(count, 0), bytes.count)
        defer { position = end }
        return Array(bytes[position..<end])
    }

    mutating func rest() -> [UInt8] { take(bytes.count) }
}
