import CLinux
import Glibc
import Testing

@testable import Core

@Suite("Messages to a descriptor that may take nothing")
struct MessageStreamTests {
    private let reader: SharedFD
    private let writer: SharedFD
    private let stream: MessageStream

    /// A pipe that waits for room, unless asked not to.
    init() throws {
        var ends: [Int32] = [-1, -1]
        // SAFETY: the array has room for both descriptors.
        _ = try checking("pipe2", unsafe clinux_pipe(&ends))
        (reader, writer) = (SharedFD(owning: ends[0]), SharedFD(owning: ends[1]))
        _ = try checking("fcntl", clinux_fcntl(writer.rawValue, F_SETFL, 0))
        stream = MessageStream(writer.rawValue)
    }

    private func write(_ line: String) {
        stream.write(line) { "\($0) lost\n" }
    }

    private func readAll() -> [Substring] {
        var text: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            // SAFETY: the array has as many bytes and lives for the call.
            let count = unsafe read(reader.rawValue, &piece, piece.count)
            guard count > 0 else { break }
            text += piece.prefix(count)
        }
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
