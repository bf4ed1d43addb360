internal import Core

// How a machine is controlled from outside.
extension VMMCommand {
    static let name = Flag.one("name", .string, help: "What monitors call the machine")

    enum QMP {
        static let listen = OptionKey.required(
            "listen", .path, help: "a Unix socket, which takes up to 16 clients")
        static let schema = OptionSchema("qmp", leadingKey: "listen", keys: [listen.any])
    }
    static let qmp = Flag.many(
        "qmp", QMP.schema, help: "A monitor that speaks QEMU's protocol QMP")
}
