/// Goes over the fields of a payload in their order: a reader fills them in, a writer takes them.
package protocol WireCursor {
    associatedtype Failure: Error

    mutating func field<T: FixedWidthInteger & UnsignedInteger>(
        _ name: String, _ value: inout T
    ) throws(Failure)

    /// Bytes without a meaning.
    mutating func padding(_ count: Int) throws(Failure)

    /// Such bytes at the end, which belong to C's struct; not all programs send them.
    mutating func trailer(_ count: Int)
}

/// Reads fields of a message in order, in host byte order (which is little-endian here).
package struct WireReader {
    /// The message, for errors.
    let message: String
    let bytes: [UInt8]
    private(set) var offset = 0

    package init(_ message: String, _ bytes: [UInt8]) {
        self.message = message
        self.bytes = bytes
    }

    var left: Int { bytes.count - offset }

    private mutating func integer<T: FixedWidthInteger & UnsignedInteger>(
        _ field: String, _ type: T.Type
    ) throws(ProtocolError) -> T {
        let count = MemoryLayout<T>.size
        guard left >= count else {
            throw ProtocolError(
                message, field, "the message ends before it, after \(bytes.count) bytes")
        }
        var value: T = 0
        for index in 0..<count { value |= T(bytes[offset + index]) << T(8 * index) }
        offset += count
        return value
    }

    mutating func u32(_ field: String) throws(ProtocolError) -> UInt32 {
        try integer(field, UInt32.self)
    }

    mutating func u64(_ field: String) throws(ProtocolError) -> UInt64 {
        try integer(field, UInt64.self)
    }

    /// A number of the type that is asked for.
    package mutating func number<T: FixedWidthInteger & UnsignedInteger>(
        _ field: String
    ) throws(ProtocolError) -> T {
        try integer(field, T.self)
    }

    /// How many of something follow.
    /// - Parameter limit: the most that there may be.
    package mutating func count(_ field: String, limit: Int) throws(ProtocolError) -> Int {
        let count = Int(try integer(field, UInt32.self))
        guard count <= limit else {
            throw ProtocolError(message, field, "\(count) is more than \(limit)")
        }
        return count
    }

    /// Bytes, with their number before them.
    package mutating func block(
        _ field: String, limit: Int = .max
    ) throws(ProtocolError) -> [UInt8] {
        try take(field, count(field, limit: limit))
    }

    mutating func take(_ field: String, _ count: Int) throws(ProtocolError) -> [UInt8] {
        guard count >= 0, left >= count else {
            throw ProtocolError(
                message, field, "\(count) bytes are announced, but only \(left) follow")
        }
        defer { offset += count }
        return Array(bytes[offset..<offset + count])
    }

    /// Checks that nothing is left but `padding` bytes at most.
    package mutating func finish(padding: Int = 0) throws(ProtocolError) {
        guard left <= padding else {
            throw ProtocolError(message, "size", "\(left) bytes follow the last field")
        }
    }
}

extension WireReader: WireCursor {
    package typealias Failure = ProtocolError

    package mutating func field<T: FixedWidthInteger & UnsignedInteger>(
        _ name: String, _ value: inout T
    ) throws(ProtocolError) {
        value = try integer(name, T.self)
    }

    package mutating func padding(_ count: Int) throws(ProtocolError) {
        _ = try take("padding", count)
    }

    package mutating func trailer(_ count: Int) {}
}

/// Appends fields of a message.
package struct WireWriter {
    package private(set) var bytes: [UInt8] = []

    package init() {}

    package mutating func append<T: FixedWidthInteger>(_ value: T) {
        for index in 0..<MemoryLayout<T>.size {
            bytes.append(UInt8(truncatingIfNeeded: value >> T(8 * index)))
        }
    }

    package mutating func append(_ more: [UInt8]) { bytes.append(contentsOf: more) }
}

extension WireWriter: WireCursor {
    package typealias Failure = Never

    package mutating func field<T: FixedWidthInteger & UnsignedInteger>(
        _ name: String, _ value: inout T
    ) throws(Never) {
        append(value)
    }

    package mutating func padding(_ count: Int) throws(Never) {
        append([UInt8](repeating: 0, count: count))
    }

    package mutating func trailer(_ count: Int) { append([UInt8](repeating: 0, count: count)) }
}
