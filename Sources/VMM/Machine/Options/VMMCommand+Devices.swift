internal import Core
internal import VhostUser

// The devices that backends serve: a flag for each kind of ours, and one for all others.
extension VMMCommand {
    static let socket = OptionKey<String?>(
        "socket", .path, help: "Served by a vhost-user backend that listens here")

    enum Foreign {
        static let type = OptionKey.required(
            "type", DeviceType.optionType, help: "What it is; see below for its names")
        static let socket = OptionKey.required(
            "socket", .path, help: "Where its backend listens")
        static let schema = OptionSchema("vhost-user", keys: [type.any, socket.any])
    }
    static let foreign = Flag.many(
        "vhost-user", Foreign.schema, help: "A device of any type, which a backend of others serves"
    )

    static func others(_ backends: [BackendKind]) -> String {
        let entries = backends.flatMap {
            HelpText.entry("apus \($0.name) [OPTION...]", $0.summary)
        }
        let note = HelpText.paragraph(
            "Each has a --help of its own, and a name of its own, such as "
                + "\(backends.first?.program ?? ""), by which a link to apus starts it.")
        let attach = HelpText.entry(
            "apus attach [OPTION...]", "Makes this terminal that of a console at a Unix socket.")
        let network = HelpText.entry(
            "apus switch [OPTION...]", "Joins the networks of virtual machines, and an up-link.")
        return (entries + [note] + attach + network).joined(separator: "\n")
    }

    func deviceOptions(
        _ values: CommandValues, isCounted: Bool
    ) throws(OptionError) -> [DeviceOptions] {
        var result: [DeviceOptions] = []
        for (kind, flag) in backends {
            for device in values[flag] {
                do throws(OptionError) {
                    result.append(try Self.device(kind, device, isCounted: isCounted))
                } catch {
                    throw error.inside("--\(flag.name)")
                }
            }
        }
        guard result.count(where: { $0.usesTerminal }) <= 1 else {
            throw OptionError("--console: only one can have standard input and output")
        }
        for device in values[Self.foreign] {
            let type = device[Foreign.type]
            result.append(DeviceOptions(type.id, type.noun, socket: device[Foreign.socket]))
        }
        return result
    }

    private static func device(
        _ kind: BackendKind, _ values: OptionValues, isCounted: Bool
    ) throws(OptionError) -> DeviceOptions {
        if let socket = values[Self.socket] {
            guard values.givenCount == 1 else {
                throw OptionError("socket stands alone; its backend has the options")
            }
            return DeviceOptions(kind.deviceID, kind.noun, socket: socket)
        }
        if let missing = kind.schema.firstMissing(values) {
            throw OptionError("\(missing) or socket is missing")
        }
        return try DeviceOptions(kind, values, mustBeInOrder: isCounted)
    }
}
