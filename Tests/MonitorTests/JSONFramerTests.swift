import Testing

@testable import Monitor

@Suite("JSON framer")
struct JSONFramerTests {
    /// What is found in `text`, which comes in pieces of `size` bytes; errors as `!`.
    private func items(_ text: String, pieces size: Int = 1000, maximumSize: Int = 100) -> [String]
    {
        var framer = JSONFramer(maximumSize: maximumSize)
        var found: [String] = []
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            var piece = rest.prefix(size)
            rest = rest.dropFirst(size)
            while let item = framer.next(&piece) {
                switch item {
                case .value(let bytes): found.append(String(decoding: bytes, as: UTF8.self))
                case .error(let reason):
                    #expect(!reason.isEmpty)
                    found.append("!")
                }
            }
            #expect(piece.isEmpty)
        }
        return found
    }

    @Test("values need nothing between them, and may come in any pieces", arguments: 1...30)
    func pieces(size: Int) {
        let text = #"{"a":[1,{"b":"}\"{"}]}{"c":2} [3]"x\\"true 5 {}"#
        let expected = [
            #"{"a":[1,{"b":"}\"{"}]}"#, #"{"c":2}"#, "[3]", #""x\\""#, "true", "5", "{}",
        ]
        #expect(items(text, pieces: size) == expected)
    }

    @Test("half a value is none")
    func half() {
        #expect(items(#"{"a": [1, 2]"#).isEmpty)
        #expect(items(#""abc"#).isEmpty)
        #expect(items("12").isEmpty)
    }

    @Test("single quotes become double ones")
    func singleQuotes() {
        #expect(items(#"{'a': 'it\'s "x"'}"#) == [#"{"a": "it's \"x\""}"#])
    }

    @Test(
        "after what is wrong, values are found again",
        arguments: [
            ("}{\"a\":1}", ["!", "{\"a\":1}"]),
            ("{]{}", ["!", "{}"]),
            (",{}", ["!", "{}"]),
            ("{\"a\": $ \"b\"}\n{}", ["!", "{}"]),
            ("{\"a\": \"b\n{}", ["!", "{}"]),
            ("X nonsense {}\n{}", ["!", "{}"]),
            ("{\u{0}{}", ["!", "{}"]),
            ("{\u{e9}\n{}", ["!", "{}"]),
        ])
    func resynchronisation(text: String, expected: [String]) {
        #expect(items(text) == expected)
        #expect(items(text, pieces: 1) == expected)
    }

    @Test("a byte that is never in UTF-8 starts afresh")
    func invalidByte() {
        var framer = JSONFramer(maximumSize: 100)
        var bytes = (Array("{\"a\": \"".utf8) + [0xFF] + Array("[1]".utf8))[...]
        #expect(framer.next(&bytes) == .error("a string does not end"))
        #expect(framer.next(&bytes) == .value(Array("[1]".utf8)))
    }

    @Test("size and depth are bounded")
    func bounds() {
        let long = "[" + String(repeating: "1,", count: 60) + "1]\n[2]"
        #expect(items(long) == ["!", "[2]"])
        #expect(items("\"" + String(repeating: "x", count: 1000) + "\"\n[2]") == ["!", "[2]"])
        let depth = JSONFramer.maximumDepth
        let deepest = String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
        #expect(items(deepest, maximumSize: 1000) == [deepest])
        #expect(items("[" + deepest + "]\n{}", maximumSize: 1000) == ["!", "{}"])
    }
}
