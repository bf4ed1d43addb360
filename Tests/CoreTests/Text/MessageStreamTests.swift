import CLinux
import Glibc
import TestSupport
import Testing

@testable import Core

@Suite("Messages to a descriptor that may take nothing")
struct MessageStreamTests {
    private let pipe: Pipe
    private let stream: MessageStream

    /// A pipe that waits for room, unless asked not to.
    init() throws {
        pipe = try Pipe()
        _ = try checking("fcntl", clinux_fcntl(pipe.input.rawValue, F_SETFL, 0))
        stream = MessageStream(pipe.input.rawValue)
    }

    private func write(_ line: String) {
        stream.write(line) { "\($0) lost\n" }
    }

    private func readAll() -> [Substring] {
        var text: [UInt8] = []
        _ = pipe.output.readAvailable(into: &text)
        return String(decoding: text, as: UTF8.self).split(separator: "\n")
    }

    @Test("hold up nobody, and are counted where they are lost")
    func unread() {
        let line = String(repeating: "x", count: 999) + "\n"
        for _ in 0..<200 { write(line) }
        let taken = readAll()
        #expect((16..<200).contains(taken.count))
        #expect(taken.allSatisfy { $0.utf8.count == 999 })
        write("later\n")
        write("last\n")
        #expect(readAll() == ["\(200 - taken.count) lost", "later", "last"])
    }

    @Test("have a limit, to which they are cut")
    func long() {
        write(String(repeating: "ü", count: 4000) + "\n")
        let lines = readAll()
        #expect(lines.count == 1)
        #expect(lines.first?.hasSuffix("...") == true)
        #expect(lines.first.map { $0.utf8.count < MessageStream.lineLimit } == true)
    }
}
