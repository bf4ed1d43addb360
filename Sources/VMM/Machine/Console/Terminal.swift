internal import Core
internal import Glibc

/// The terminal of this process in raw mode, for as long as this object lives: keys go to the
/// guest as they are, Ctrl-C included. Output processing stays on, so that messages of our own look
/// right.
final class Terminal {
    private let fd: Int32
    private var original = termios()

    /// - Returns: `nil` if `fd` is no terminal.
    init?(_ fd: Int32) {
        self.fd = fd
        // SAFETY: `original` lives for the call.
        guard isatty(fd) == 1, unsafe tcgetattr(fd, &original) == 0 else { return nil }
        makeRaw()
    }

    deinit { restore() }

    /// Also needed when the process comes back to the foreground.
    func makeRaw() {
        var raw = original
        // SAFETY: `raw` lives for the calls.
        unsafe cfmakeraw(&raw)
        raw.c_oflag |= tcflag_t(OPOST) | original.c_oflag
        unsafe _ = tcsetattr(fd, TCSANOW, &raw)
    }

    func restore() {
        // Whoever has the foreground now has a mode of its own, and setting ours would stop us.
        let foreground = tcgetpgrp(fd)
        guard foreground < 0 || foreground == getpgrp() else { return }
        // SAFETY: `original` lives for the call.
        unsafe _ = tcsetattr(fd, TCSANOW, &original)
    }
}

/// Finds the keys in terminal input that are not for the guest: Ctrl-A and a letter.
struct EscapeKeys {
    enum Command: Equatable {
        case leave
        case help
        case monitor
    }

    private var isEscaped = false

    static let help = """

        Keys: Ctrl-A x  end the machine
              Ctrl-A h  this help
              Ctrl-A a  send Ctrl-A to the guest

        """

    /// Splits input into what the guest gets and what it means to us.
    mutating func filter(_ input: [UInt8]) -> (output: [UInt8], commands: [Command]) {
        var output: [UInt8] = []
        var commands: [Command] = []
        for byte in input {
            guard isEscaped else {
                if byte == 0x01 { isEscaped = true } else { output.append(byte) }
                continue
            }
            isEscaped = false
            switch byte {
            case UInt8(ascii: "x"): commands.append(.leave)
            case UInt8(ascii: "h"), UInt8(ascii: "?"): commands.append(.help)
            case UInt8(ascii: "c"): commands.append(.monitor)
            case UInt8(ascii: "a"), 0x01: output.append(0x01)
            default: output += [0x01, byte]
            }
        }
        return (output, commands)
    }
}
