internal import Core
internal import Devices
internal import Monitor

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
                .array(slots.map { $0.json(options.devices[$0.index]) })
            },
        ]
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
    fileprivate func json(_ options: DeviceOptions) -> JSONValue {
        let state =
            switch self.state {
            case .empty: "unplugged"
            case .filling: "coming"
            case .plugged: "plugged"
            case .leaving: "asked-to-leave"
            case .emptying: "leaving"
            }
        return [
            "id": .string(id), "title": .string(options.title),
            "virtio-type": .integer(Int64(options.id.rawValue)),
            "slot": .integer(Int64(port.number)), "state": .string(state),
        ]
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
