import Testing

@testable import Monitor

@Suite("JSON values")
struct JSONValueTests {
    private func parse(_ text: String) throws(JSONError) -> JSONValue {
        try JSONValue(parsing: Array(text.utf8))
    }

    @Test("all kinds are read and written")
    func roundTrip() throws {
        let text = #"{"a": [null, true, false, -5, 9223372036854775807, 1.5], "b": {"c": "d"}}"#
        let value = try parse(text)
        let expected: JSONValue = [
            "a": [.null, true, false, -5, .integer(.max), .real(1.5)], "b": ["c": "d"],
        ]
        #expect(value == expected)
        #expect(String(decoding: value.text, as: UTF8.self) == text)
        #expect(value["b"]?["c"]?.string == "d")
        #expect(value["x"] == nil)
    }

    @Test("text is written in ASCII, and control characters are not written as such")
    func ascii() throws {
        let value: JSONValue = "\u{e9}\n\u{1f600}\"\u{0}"
        let text = String(decoding: value.text, as: UTF8.self)
        #expect(text == #""\u00E9\n\uD83D\uDE00\"\u0000""#)
        #expect(try parse(#""\u00e9\ud83d\ude00é""#) == "\u{e9}\u{1f600}\u{e9}")
    }

    @Test(
        "what is not JSON is an error",
        arguments: [
            "", "{", "[1,]", "{\"a\" 1}", "{\"a\":1,\"a\":2}", "1e999", "99999999999999999999",
            "01", "tru", "\"\\u0000\"", "\"\\x\"", "\"\\ud800\"", "[1] 2",
        ])
    func errors(text: String) {
        #expect(throws: JSONError.self) { try parse(text) }
    }

    @Test("bytes that are not UTF-8 are an error")
    func invalidUTF8() {
        #expect(throws: JSONError.self) {
            try JSONValue(parsing: [UInt8(ascii: "\""), 0xC3, UInt8(ascii: "\"")])
        }
    }

    @Test("numbers that JSON does not have are null")
    func infinity() {
        let value: JSONValue = [.real(.infinity), .real(.nan)]
        #expect(String(decoding: value.text, as: UTF8.self) == "[null, null]")
    }
}
