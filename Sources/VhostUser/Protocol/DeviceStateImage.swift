package import Core

/// A device's state as it goes from one back end of ours to another: what tells that it is one, and
/// of which device, and then the device's own bytes.
///
///     "apus" u32, version u16 = 1, device ID u16, length u32, bytes
package struct DeviceStateImage: Equatable {
    /// More than any device of ours has.
    package static let maximumSize = 128 << 20
    /// The most of it that can be a device's own bytes.
    package static let maximumContents = maximumSize - 12
    private static let mark: UInt32 = 0x7375_7061
    private static let version: UInt16 = 1

    package var deviceID: VirtioDeviceID
    package var contents: [UInt8]

    package init(deviceID: VirtioDeviceID, contents: [UInt8]) {
        self.deviceID = deviceID
        self.contents = contents
    }

    package init(_ bytes: [UInt8]) throws(ProtocolError) {
        var reader = WireReader("device state", bytes)
        let mark: UInt32 = try reader.number("mark")
        let version: UInt16 = try reader.number("version")
        guard mark == Self.mark, version == Self.version else {
            throw ProtocolError("device state", "version", "it is not a state of version 1")
        }
        deviceID = VirtioDeviceID(try reader.number("device"))
        contents = try reader.block("contents")
        try reader.finish()
    }

    package var bytes: [UInt8] {
        var writer = WireWriter()
        writer.append(Self.mark)
        writer.append(Self.version)
        writer.append(deviceID.rawValue)
        writer.append(UInt32(clamping: contents.count))
        writer.append(contents)
        return writer.bytes
    }
}
