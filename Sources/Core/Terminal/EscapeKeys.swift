/// Finds the keys in terminal input that are not for the guest: Ctrl-A and a letter.
package struct EscapeKeys {
    package enum Command: Equatable {
        case leave
        case help
    }

    private var isEscaped = false

    package init() {}

    /// - Parameter subject: what ends: `the machine`.
    package static func help(ends subject: String) -> String {
        """

        Keys: Ctrl-A x  end \(subject)
              Ctrl-A h  this help
              Ctrl-A a  send Ctrl-A to the guest

        """
    }

    /// Splits input into what the guest gets and what it means to us.
    package mutating func filter(
        _ input: [UInt8]
    ) -> (output: [UInt8], commands: [Command]) {
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
            case UInt8(ascii: "a"), 0x01: output.append(0x01)
            default: output += [0x01, byte]
            }
        }
        return (output, commands)
    }
}
