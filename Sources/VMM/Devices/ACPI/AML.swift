/// A piece of AML, the byte code of ACPI's definition blocks (ACPI 6.5, chapter 20), made of
/// smaller pieces:
///
///     AML.scope("\\_SB_", [
///         .device("COM1", [.name("_UID", .integer(0))]),
///     ])
package struct AML: Sendable {
    package let bytes: [UInt8]

    private init(_ bytes: [UInt8]) { self.bytes = bytes }

    private init(_ pieces: [AML]) { self.init(pieces.flatMap(\.bytes)) }

    // MARK: Data

    /// A constant, in the shortest form.
    package static func integer(_ value: UInt64) -> AML {
        var bytes: [UInt8]
        switch value {
        case 0: bytes = [0x00]
        case 1: bytes = [0x01]
        case ...0xFF: bytes = [0x0A, UInt8(value)]
        case ...0xFFFF:
            bytes = [0x0B]
            bytes.appendLittleEndian(UInt16(value))
        case ...0xFFFF_FFFF:
            bytes = [0x0C]
            bytes.appendLittleEndian(UInt32(value))
        default:
            bytes = [0x0E]
            bytes.appendLittleEndian(value)
        }
        return AML(bytes)
    }

    /// A string of ASCII characters.
    package static func string(_ text: String) -> AML { AML([0x0D] + Array(text.utf8) + [0]) }

    /// A device's identification in the compressed form, for example `PNP0501`; the letters are
    /// upper case.
    package static func eisaID(_ id: String) -> AML {
        let characters = Array(id.utf8)
        precondition(characters.count == 7, "an EISA id has three letters and four digits")
        let letters = characters.prefix(3).reduce(UInt32(0)) { $0 << 5 | UInt32($1 - 0x40) }
        let number = UInt32(String(decoding: characters.suffix(4), as: UTF8.self), radix: 16) ?? 0
        // Stored with the most significant byte first.
        let bytes = AML.dword((letters << 16 | number).byteSwapped)
        return AML(bytes)
    }

    private static func dword(_ value: UInt32) -> [UInt8] {
        var bytes: [UInt8] = [0x0C]
        bytes.appendLittleEndian(value)
        return bytes
    }

    package static func buffer(_ data: [UInt8]) -> AML {
        package(0x11, [integer(UInt64(data.count)), AML(data)])
    }

    package static func package(_ elements: [AML]) -> AML {
        package(0x12, [AML([UInt8(truncatingIfNeeded: elements.count)])] + elements)
    }

    /// Resource descriptors as a buffer, with the end tag.
    package static func resources(_ resources: [ACPIResource]) -> AML {
        buffer(resources.flatMap(\.bytes) + [0x79, 0x00])
    }

    // MARK: Named objects

    package static func name(_ path: String, _ value: AML) -> AML {
        AML([AML([0x08] + nameString(path)), value])
    }

    package static func scope(_ path: String, _ contents: [AML]) -> AML {
        package(0x10, [AML(nameString(path))] + contents)
    }

    package static func device(_ path: String, _ contents: [AML]) -> AML {
        let body = package(0x82, [AML(nameString(path))] + contents)
        return AML([0x5B] + body.bytes)
    }

    // MARK: Methods

    package static func method(_ path: String, arguments: UInt8, _ body: [AML]) -> AML {
        package(0x14, [AML(nameString(path) + [arguments & 7])] + body)
    }

    /// A method's argument 0-6.
    package static func argument(_ index: UInt8) -> AML { AML([0x68 + index]) }

    /// A method's variable 0-7.
    package static func local(_ index: UInt8) -> AML { AML([0x60 + index]) }

    /// What a name stands for.
    package static func reference(_ path: String) -> AML { AML(nameString(path)) }

    /// Names 4 bytes of a buffer.
    package static func doubleword(_ name: String, of buffer: AML, at offset: UInt64) -> AML {
        AML([AML([0x8A]), buffer, integer(offset), AML(nameString(name))])
    }

    package static func store(_ value: AML, in target: AML) -> AML {
        AML([AML([0x70]), value, target])
    }

    package static func and(_ a: AML, _ b: AML, into target: AML) -> AML {
        AML([AML([0x7B]), a, b, target])
    }

    package static func or(_ a: AML, _ b: AML, into target: AML) -> AML {
        AML([AML([0x7D]), a, b, target])
    }

    package static func ifEqual(_ a: AML, _ b: AML, _ body: [AML]) -> AML {
        package(0xA0, [AML([AML([0x93]), a, b])] + body)
    }

    package static func `return`(_ value: AML) -> AML { AML([AML([0xA4]), value]) }

    // MARK: Paths

    /// A path: segments of four characters, separated by dots, perhaps after a backslash.
    private static func nameString(_ path: String) -> [UInt8] {
        var rest = path[...]
        var bytes: [UInt8] = []
        if rest.first == "\\" {
            bytes.append(0x5C)
            rest = rest.dropFirst()
        }
        let segments = rest.split(separator: ".")
        precondition(
            !segments.isEmpty && segments.allSatisfy { $0.utf8.count == 4 },
            "names have four characters")
        if segments.count == 2 { bytes.append(0x2E) }
        if segments.count > 2 { bytes += [0x2F, UInt8(segments.count)] }
        return bytes + segments.flatMap { Array($0.utf8) }
    }

    // MARK: Lengths

    /// An operation with the length of its contents in front (section 20.2.4).
    private static func package(_ operation: UInt8, _ contents: [AML]) -> AML {
        let body = contents.flatMap(\.bytes)
        return AML([operation] + packageLength(body.count) + body)
    }

    /// The length counts its own bytes as well.
    private static func packageLength(_ count: Int) -> [UInt8] {
        if count + 1 < 1 << 6 { return [UInt8(count + 1)] }
        for extra in 1...3 {
            let total = count + 1 + extra
            guard total < 1 << (4 + 8 * extra) else { continue }
            let low = UInt8(extra << 6 | total & 0xF)
            return [low] + (0..<extra).map { UInt8(truncatingIfNeeded: total >> (4 + 8 * $0)) }
        }
        preconditionFailure("an AML package is smaller than 256 MiB")
    }
}
