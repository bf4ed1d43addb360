internal import Core
internal import VhostUser

// The devices that backends serve: a flag for each kind of ours, and one for all others.
extension VMMCommand {
    static let socket = OptionKey<String?>(
        "socket", .path, help: "served by a vhost-user back end that listens here")

    /// Devices that come and go.
    enum Slot {
        static let id = OptionKey<String?>(
            "id", .string, help: "a name for the monitor, and a slot: the device can be unplugged")
        static let plugged = OptionKey(
            "plugged", .bool, default: true, help: "off: wait until the monitor plugs it in")
        static let keys = [id.any, plugged.any]
    }

    enum Foreign {
        static let type = OptionKey.required(
            "type", DeviceType.optionType, help: "what it is; see below for its names")
        static let socket = OptionKey.required(
            "socket", .path, help: "where its back end listens")
        static let schema = OptionSchema("vhost-user", keys: [type.any, socket.any] + Slot.keys)
    }
    static let foreign = Flag.many(
        "vhost-user", Foreign.schema,
        help: "A device of any type, which a back end of others serves"
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
            var options = DeviceOptions(type.id, type.noun, socket: device[Foreign.socket])
            do throws(OptionError) {
                options.slot = try Self.slot(device)
            } catch {
                throw error.inside("--\(Self.foreign.name)")
            }
            result.append(options)
        }
        try Self.checkIDs(result)
        return result
    }

    private static func checkIDs(_ devices: [DeviceOptions]) throws(OptionError) {
        var ids = Set<String>()
        for device in devices {
            guard let slot = device.slot else { continue }
            guard !device.sharesMemory else {
                throw OptionError(
                    "the \(device.title) cannot have both an id and a window (cache-size): behind"
                        + " the port of a device that comes and goes there is no room for it")
            }
            guard ids.insert(slot.id).inserted else {
                throw OptionError("two devices have the id '\(slot.id)'; give each its own")
            }
        }
    }

    private static func slot(_ values: OptionValues) throws(OptionError) -> DeviceOptions.Slot? {
        guard let id = values[Slot.id] else {
            guard values[Slot.plugged] else {
                throw OptionError("plugged=off needs an id=NAME, by which it can be plugged in")
            }
            return nil
        }
        guard !id.isEmpty, id.utf8.count <= 64 else {
            throw OptionError("id has 1 to 64 characters")
        }
        return DeviceOptions.Slot(id: id, isPlugged: values[Slot.plugged])
    }

    private static func device(
        _ kind: BackendKind, _ given: OptionValues, isCounted: Bool
    ) throws(OptionError) -> DeviceOptions {
        var options = try device(
            kind, served: given.without(Slot.keys), isCounted: isCounted)
        options.slot = try slot(given)
        return options
    }

    /// What the user says of the configuration space of a device at a socket.
    private static func configured(
        _ kind: BackendKind, _ values: OptionValues
    ) throws(OptionError) -> DeviceOptions.Child? {
        try kind.config?.check(values)
        let keys = (kind.config?.keys ?? []).filter { values.text(of: $0) != nil }
        guard values.givenCount == 1 + keys.count else {
            let others = kind.config.map { ", but for \($0.keys.joined(separator: ", "))" } ?? ""
            throw OptionError("socket stands alone\(others); its back end has the options")
        }
        return kind.config == nil || kind.missingConfigKey(values) != nil
            ? nil : DeviceOptions.Child(kind: kind, values: values)
    }

    private static func device(
        _ kind: BackendKind, served values: OptionValues, isCounted: Bool
    ) throws(OptionError) -> DeviceOptions {
        if let socket = values[Self.socket] {
            return DeviceOptions(
                kind.deviceID, kind.noun, socket: socket, configured: try configured(kind, values))
        }
        if let missing = kind.schema.firstMissing(values) {
            throw OptionError("\(missing) or socket is missing")
        }
        return try DeviceOptions(kind, values, mustBeInOrder: isCounted)
    }
}
