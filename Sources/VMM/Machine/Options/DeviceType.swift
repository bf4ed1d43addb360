internal import Core

/// A type of virtio device, as `--vhost-user type=` names it: the names of vhost-user back-end
/// programs (vhost-user specification, "Backend program conventions"), or a device ID.
struct DeviceType: Equatable, Sendable {
    let id: VirtioDeviceID
    /// What messages call it.
    let noun: String

    /// Device IDs of VIRTIO 1.3, section 5.
    private static let names: [(name: String, id: UInt16)] = [
        ("net", 1), ("block", 2), ("console", 3), ("rng", 4), ("balloon", 5), ("rpmsg", 7),
        ("scsi", 8), ("9p", 9), ("rproc-serial", 11), ("caif", 12), ("gpu", 16), ("input", 18),
        ("vsock", 19), ("crypto", 20), ("pmem", 27), ("fs", 26), ("sound", 25), ("i2c", 34),
        ("scmi", 32), ("gpio", 41), ("can", 36), ("spi", 45), ("media", 48),
    ]

    /// For the help.
    static var list: String {
        HelpText.paragraph(
            names.map(\.name).joined(separator: ", ")
                + "; or the number that VIRTIO gives it, from 1 to 63.")
    }

    static let optionType = OptionType<DeviceType>(placeholder: "NAME|N", format: { $0.noun }) {
        text throws(OptionError) in
        if let match = names.first(where: { $0.name == text }) {
            return DeviceType(id: VirtioDeviceID(match.id), noun: "\(text) device")
        }
        // The transport's device number is 0x1040 above it, and has 16 bits in all.
        if let number = UInt16(text), (1...0x3f).contains(number) {
            return DeviceType(id: VirtioDeviceID(number), noun: "device of type \(number)")
        }
        let known = names.map(\.name)
        let hint = Nearest.match(text, among: known).map { "; did you mean '\($0)'?" }
        throw OptionError(
            "'\(text)' is neither a type of device nor a number from 1 to 63"
                + (hint ?? "; --help lists the types"))
    }
}
