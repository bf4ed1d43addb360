internal import CJansson

/// Why a text is not a JSON value; completes the sentence "JSON parse error, ".
package struct JSONError: Error, Equatable, Sendable {
    package let reason: String
}

// Reading and writing is jansson's; its values live only here.
extension JSONValue {
    /// jansson would open /dev/urandom for its hash tables' seed, which a process that has locked
    /// itself in cannot.
    private static let isSeeded: Bool = {
        json_object_seed(Int.random(in: 1...Int.max))
        return true
    }()

    /// Reads one value. A name that an object has twice is an error, as is a NUL in a string.
    package init(parsing text: [UInt8]) throws(JSONError) {
        _ = Self.isSeeded
        var error = json_error_t()
        let flags = Int(JSON_DECODE_ANY | JSON_REJECT_DUPLICATES)
        let value = unsafe text.withUnsafeBytes { bytes in
            // SAFETY: the text and the error live for the call, which reads no more than `count`.
            unsafe json_loadb(
                bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count, flags, &error)
        }
        guard let value = unsafe value else {
            // SAFETY: jansson ends the text with a NUL.
            let reason = unsafe withUnsafeBytes(of: &error.text) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            throw JSONError(reason: reason)
        }
        // SAFETY: the reference is ours, and the value is copied.
        defer { unsafe json_decref(value) }
        unsafe self.init(value)
    }

    /// Copies a value of jansson's.
    private init(_ value: UnsafeMutablePointer<json_t>) {
        // SAFETY: the value is valid, here and below, and what it holds is valid as long.
        switch unsafe value.pointee.type {
        case JSON_OBJECT: self = unsafe .object(Self.members(value))
        case JSON_ARRAY:
            self = .array(
                unsafe (0..<json_array_size(value)).compactMap { index in
                    unsafe json_array_get(value, index).map { unsafe JSONValue($0) }
                })
        case JSON_STRING:
            let bytes = unsafe UnsafeRawBufferPointer(
                start: json_string_value(value), count: json_string_length(value))
            self = unsafe .string(String(decoding: bytes, as: UTF8.self))
        case JSON_INTEGER: self = unsafe .integer(json_integer_value(value))
        case JSON_REAL: self = unsafe .real(json_real_value(value))
        case JSON_TRUE: self = .bool(true)
        case JSON_FALSE: self = .bool(false)
        default: self = .null
        }
    }

    private static func members(_ object: UnsafeMutablePointer<json_t>) -> [Member] {
        var members: [Member] = []
        // SAFETY: the object does not change while it is walked.
        var place = unsafe json_object_iter(object)
        while let here = unsafe place {
            let name = unsafe UnsafeRawBufferPointer(
                start: json_object_iter_key(here), count: json_object_iter_key_len(here))
            if let value = unsafe json_object_iter_value(here) {
                unsafe members.append(
                    Member(String(decoding: name, as: UTF8.self), JSONValue(value)))
            }
            unsafe place = json_object_iter_next(object, here)
        }
        return members
    }

    // MARK: Writing

    /// The value on one line, in ASCII.
    package var text: [UInt8] {
        _ = Self.isSeeded
        let flags = Int(JSON_ENCODE_ANY | JSON_ENSURE_ASCII)
        guard let value = unsafe makeValue() else { return [] }
        // SAFETY: the reference is ours.
        defer { unsafe json_decref(value) }
        let size = unsafe json_dumpb(value, nil, 0, flags)
        return unsafe [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            let start = unsafe UnsafeMutableRawPointer(buffer.baseAddress)?
                .assumingMemoryBound(to: CChar.self)
            // SAFETY: the buffer has room for `size` bytes, which are what is written.
            unsafe count = min(json_dumpb(value, start, size, flags), size)
        }
    }

    /// A value of jansson's, whose reference is the caller's; `nil` for what JSON does not have.
    private func makeValue() -> UnsafeMutablePointer<json_t>? {
        // SAFETY: the strings live for the calls. The functions that end in `_new` take over the
        // reference to what they add, and take `nil` as an error that changes nothing.
        switch self {
        case .null: return unsafe json_null()
        case .bool(let isTrue): return unsafe isTrue ? json_true() : json_false()
        case .integer(let number): return unsafe json_integer(number)
        case .real(let number): return unsafe number.isFinite ? json_real(number) : json_null()
        case .string(let text): return unsafe json_stringn(text, text.utf8.count)
        case .array(let items):
            let array = unsafe json_array()
            for item in items { unsafe _ = json_array_append_new(array, item.makeValue()) }
            return unsafe array
        case .object(let members):
            let object = unsafe json_object()
            for member in members {
                let (name, value) = unsafe (member.name, member.value.makeValue())
                unsafe _ = json_object_setn_new(object, name, name.utf8.count, value)
            }
            return unsafe object
        }
    }
}
