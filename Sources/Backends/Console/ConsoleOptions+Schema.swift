package import Core

extension ConsoleOptions {
    private enum Mode: String, CaseIterable, Sendable { case stdio, pty, null }

    private enum Keys {
        static let mode = OptionKey<Mode?>(
            "mode", .choice(Mode.self),
            help: "stdio: standard input and output; pty: a new pseudo terminal; null: nothing")
        static let link = OptionKey<String?>(
            "link", .path, help: "make this a symbolic link to the pseudo terminal")
        static let socket = OptionKey<String?>(
            "listen", .path, help: "a Unix socket for any number of readers and writers")
        static let file = OptionKey<String?>("file", .path, help: "append the output to a file")
        static let name = OptionKey(
            "name", .text("NAME"), default: "",
            help: "the port's name in the guest, as in /dev/virtio-ports/NAME")
        static let console = OptionKey<Bool?>(
            "console", .bool,
            help: "a terminal (hvc0, ...) or a plain channel; by default the first port is one")
        static let replay = OptionKey<UInt64?>(
            "replay", .size,
            help: "how much of the last output a new reader of a socket gets; by default 64K of a "
                + "terminal, and nothing of a channel")
        static let ports = OptionKey(
            "ports", .list(of: .string), default: [],
            help: "further ports, each described like this in quotes")
    }

    private static let portKeys = [
        Keys.mode.any, Keys.link.any, Keys.socket.any, Keys.file.any, Keys.name.any,
        Keys.console.any, Keys.replay.any,
    ]
    private static let portSchema = OptionSchema("port", leadingKey: "mode", keys: portKeys)

    /// What can be said of a console: its first port, and the others.
    package static let schema = OptionSchema(
        "console", leadingKey: "mode", keys: portKeys + [Keys.ports.any])

    /// Takes what `schema` has parsed.
    package init(_ values: OptionValues) throws(OptionError) {
        ports = [try Self.port(values, isFirst: true)]
        for text in values[Keys.ports] {
            do throws(OptionError) {
                ports.append(try Self.port(try Self.portSchema.parse(text), isFirst: false))
            } catch {
                throw error.inside("ports")
            }
        }
        guard ports.count <= Self.maximumPorts else {
            throw OptionError("a console has at most \(Self.maximumPorts) ports")
        }
        guard ports.count(where: { $0.backing == .stdio }) <= 1 else {
            throw OptionError("only one port can have standard input and output")
        }
    }

    private static func port(
        _ values: OptionValues, isFirst: Bool
    ) throws(OptionError) -> Port {
        let isConsole = values[Keys.console] ?? isFirst
        var port = Port(isConsole: isConsole, backing: try backing(values))
        port.name = values[Keys.name]
        guard port.name.utf8.count <= maximumNameSize else {
            throw OptionError("name: it is longer than \(maximumNameSize) bytes")
        }
        let usual = isConsole ? UInt64(usualReplaySize) : 0
        let replay = values[Keys.replay] ?? usual
        guard replay <= 16 << 20 else { throw OptionError("replay: it is more than 16M") }
        port.replaySize = Int(replay)
        return port
    }

    private static func backing(_ values: OptionValues) throws(OptionError) -> Backing {
        let link = values[Keys.link]
        guard link == nil || values[Keys.mode] == .pty else {
            throw OptionError("link belongs to pty")
        }
        switch (values[Keys.mode], values[Keys.socket], values[Keys.file]) {
        case (.stdio, nil, nil): return .stdio
        case (.pty, nil, nil): return .pty(link: link)
        case (.null, nil, nil): return .null
        case (nil, let path?, nil): return .socket(path)
        case (nil, nil, let path?): return .file(path)
        default: throw OptionError("one of stdio, pty, null, listen=PATH and file=PATH is needed")
        }
    }
}
