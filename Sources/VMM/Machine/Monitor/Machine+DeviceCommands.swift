internal import Core
internal import Devices
internal import Monitor
internal import VhostUser

// The monitor's commands for devices that come and go: those that were given an id.
extension Machine {
    var deviceCommands: [MonitorCommand] {
        [
            MonitorCommand(
                "device_add", [.required("id", .string), .optional("driver", .string)]
            ) { [unowned self] arguments, reply in addDevice(arguments, reply) },
            MonitorCommand("device_del", [.required("id", .string)]) {
                [unowned self] arguments throws(MonitorError) in
                do throws(HotPlugError) {
                    try unplug(try Self.deviceID(arguments))
                } catch {
                    throw MonitorError(error)
                }
                return [:]
            },
            MonitorCommand("x-query-devices") { [unowned self] _ in
                .array(options.devices.indices.map { .object(describeDevice($0)) })
            },
        ]
    }

    /// A device of the options, whether it has a slot or is always there.
    private func describeDevice(_ index: Int) -> [JSONValue.Member] {
        let options = options.devices[index]
        let slot = slots.first { $0.index == index }
        var members: [JSONValue.Member] = [
            .init("title", .string(options.title)),
            .init("virtio-type", .integer(Int64(options.id.rawValue))),
            .init("state", .string(slot?.stateName ?? "plugged")),
        ]
        if let slot {
            members.append(.init("id", .string(slot.id)))
            members.append(.init("slot", .integer(Int64(slot.port.number))))
        }
        if let device = devices.first(where: { $0.index == index }) {
            members.append(.init("backend", .object(describeBackend(device, options.source))))
        }
        return members
    }

    private func describeBackend(
        _ device: AttachedDevice, _ source: DeviceOptions.Source
    ) -> [JSONValue.Member] {
        let (connections, processID) = device.service
        let seconds = (Clock.monotonic() &- connections.since) / 1_000_000_000
        var members: [JSONValue.Member] = [
            .init("connected", .bool(connections.isConnected)),
            .init("seconds", .integer(Int64(clamping: seconds))),
            .init("reconnects", .integer(Int64(connections.reconnectCount))),
        ]
        if let processID { members.append(.init("process-id", .integer(Int64(processID)))) }
        if case .socket(let path, _) = source { members.append(.init("socket", .string(path))) }
        if let loss = connections.lastLoss { members.append(.init("last-loss", .string(loss))) }
        return members
    }

    private func addDevice(_ arguments: MonitorArguments, _ reply: MonitorReply) {
        do throws(HotPlugError) {
            let id = try Self.deviceID(arguments)
            if let driver = arguments.string("driver") { try checkDriver(driver, of: id) }
            try plug(id) { error in
                if let error {
                    reply.fail(MonitorError(error))
                } else {
                    reply.succeed()
                }
            }
        } catch {
            reply.fail(MonitorError(error))
        }
    }

    private static func deviceID(_ arguments: MonitorArguments) throws(HotPlugError) -> String {
        // QEMU's clients may give the path of the object.
        let text = arguments.string("id") ?? ""
        let prefix = ObjectPath.devices
        return text.hasPrefix(prefix) ? String(text.dropFirst(prefix.count)) : text
    }

    /// What a device is was said when the machine was started; clients that say it again must mean
    /// the same.
    private func checkDriver(_ driver: String, of id: String) throws(HotPlugError) {
        guard let slot = slots.first(where: { $0.id == id }) else { return }
        let names = options.devices[slot.index].id.driverNames
        guard names.contains(driver) else {
            throw HotPlugError(
                "device '\(id)' was declared as "
                    + (names.first.map { "\($0), not '\(driver)'" } ?? "something else"))
        }
    }
}

/// Where QEMU's clients look for devices with an id.
private enum ObjectPath {
    static let devices = "/machine/peripheral/"
}

extension VirtioDeviceID {
    /// What QEMU calls the devices of a type on a PCI bus.
    fileprivate var driverNames: [String] {
        let name: String? =
            switch self {
            case .net: "net"
            case .block: "blk"
            case .console: "serial"
            case .entropy: "rng"
            case .vsock: "vsock"
            case .fs: "fs"
            default: nil
            }
        return name.map { ["vhost-user-\($0)-pci", "virtio-\($0)-pci"] } ?? []
    }
}

extension DeviceSlot {
    fileprivate var stateName: String {
        switch state {
        case .empty: "unplugged"
        case .filling: "coming"
        case .plugged: "plugged"
        case .leaving: "asked-to-leave"
        case .emptying: "leaving"
        }
    }
}

extension MonitorError {
    fileprivate init(_ error: HotPlugError) {
        self.init(error.description, error.isUnknown ? .deviceNotFound : .generic)
    }
}

extension QMPServer {
    /// A device has left its slot (QEMU's event).
    func emitUnplugged(_ id: String) {
        emit(
            "DEVICE_DELETED",
            ["device": .string(id), "path": .string(ObjectPath.devices + id)])
    }
}
