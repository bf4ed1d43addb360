internal import CLinux
internal import Glibc

/// A pseudo terminal in raw mode.
package struct PseudoTerminal: Sendable {
    /// The end of whoever plays the terminal: shows what is written, and types.
    package let near: SharedFD
    /// The end of the program that uses the terminal.
    package let far: SharedFD
    /// Where others find the far end.
    package let path: String

    package init() throws(SystemError) {
        var ends: [Int32] = [-1, -1]
        var name = [UInt8](repeating: 0, count: 64)
        // SAFETY: the arrays are as long as the call is told; the name ends with a zero.
        let code = unsafe clinux_open_terminal(&ends, &name, name.count)
        _ = try checking("posix_openpt", code)
        near = SharedFD(owning: ends[0])
        far = SharedFD(owning: ends[1])
        path = String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
    }
}

/// A terminal's size in characters.
package struct TerminalSize: Equatable, Sendable {
    package var columns: UInt16
    package var rows: UInt16

    package init(columns: UInt16, rows: UInt16) {
        self.columns = columns
        self.rows = rows
    }

    /// `nil` if `fd` is no terminal, or one that does not know its size.
    package init?(of fd: Int32) {
        var size = winsize()
        // SAFETY: the request fills the structure, which lives for the call.
        let code = unsafe withUnsafeMutablePointer(to: &size) { pointer in
            clinux_ioctl(fd, UInt(TIOCGWINSZ), UInt(bitPattern: UnsafeRawPointer(pointer)))
        }
        guard code == 0, size.ws_col > 0, size.ws_row > 0 else { return nil }
        self.init(columns: size.ws_col, rows: size.ws_row)
    }

    /// Makes it the size of a terminal. Nothing happens if `fd` is none.
    package func set(on fd: Int32) {
        var size = winsize(ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0)
        // SAFETY: the structure lives for the call.
        _ = unsafe withUnsafeMutablePointer(to: &size) { pointer in
            clinux_ioctl(fd, UInt(TIOCSWINSZ), UInt(bitPattern: UnsafeRawPointer(pointer)))
        }
    }
}
