/// A system description table: a header, and a body whose checksum the header has (ACPI 6.5,
/// section 5.2.6).
package struct ACPITable: Sendable {
    package let signature: String
    package let bytes: [UInt8]

    static let headerSize = 36

    init(_ signature: String, revision: UInt8, body: [UInt8]) {
        var bytes = Array(signature.utf8)
        bytes.appendLittleEndian(UInt32(Self.headerSize + body.count))
        bytes += [revision, 0]
        bytes += Self.oemID
        bytes += Array("APUSMVM ".utf8)
        bytes.appendLittleEndian(UInt32(1))  // OEM revision
        bytes += Array("APUS".utf8)
        bytes.appendLittleEndian(UInt32(1))  // creator revision
        bytes += body
        bytes[9] = Self.checksum(bytes[...])
        self.signature = signature
        self.bytes = bytes
    }

    static let oemID = Array("APUS  ".utf8)

    /// What makes the sum of the bytes zero.
    static func checksum(_ bytes: ArraySlice<UInt8>) -> UInt8 { 0 &- bytes.reduce(0, &+) }
}
