/// A console device's ports and what is behind them.
package struct ConsoleOptions: Equatable, Sendable {
    /// What is behind a port on the host.
    package enum Backing: Equatable, Sendable {
        /// Standard input and output.
        case stdio
        /// A pseudo terminal, to which `link`, if given, becomes a symbolic link.
        case pty(link: String?)
        /// A Unix socket that takes any number of readers and writers.
        case socket(String)
        /// Output is appended to a file; there is no input.
        case file(String)
        /// Output goes nowhere; there is no input.
        case null
    }

    package struct Port: Equatable, Sendable {
        /// What the guest sees it called (`/dev/virtio-ports/NAME`); empty: nothing.
        package var name = ""
        /// A terminal of the guest, `hvc0` for the first; otherwise a plain channel.
        package var isConsole: Bool
        package var backing: Backing
        /// Bytes of the last output that a new reader of a socket is shown.
        package var replaySize = 0
    }

    /// At least one, at most `maximumPorts`.
    package var ports: [Port]

    package static let maximumPorts = 31
    package static let maximumNameSize = 128
    package static let usualReplaySize = 64 << 10
}
