import Foundation

/// The smallest guest: an ELF file with a PVH entry, which both monitors take. It writes one byte to
/// the serial port and comes to an end.
struct TinyGuest {
    /// How it ends.
    enum End: String, CaseIterable {
        /// The CPU stops for ever, so that the monitor stands still.
        case halt
        /// A triple fault, on which both monitors exit.
        case tripleFault
    }

    /// What it writes.
    static let byte = UInt8(ascii: "!")

    private static let loadAddress: UInt32 = 0x10_0000
    /// Where in the file the note and the code are.
    private static let noteOffset = 0x200
    private static let codeOffset = 0x1000
    private static let fileSize = 0x2000

    let end: End

    /// Writes the file into a folder.
    /// - Returns: its path.
    func write(into folder: String) throws -> String {
        let path = "\(folder)/tiny-\(end.rawValue).elf"
        try image.write(to: URL(fileURLWithPath: path))
        return path
    }

    private var image: Data {
        var file = Bytes()
        // The header of a 64-bit, little-endian executable for x86-64 (System V ABI).
        file.put([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1], [UInt8](repeating: 0, count: 9))
        file.put16(2, 62)
        file.put32(1)
        file.put64(UInt64(Self.loadAddress), 64, 0)
        file.put32(0)
        file.put16(64, 56, 2, 0, 0, 0)
        let address = UInt64(Self.loadAddress)
        // PT_LOAD, readable, writable, executable.
        file.put32(1, 7)
        file.put64(UInt64(Self.codeOffset), address, address, 0x1000, 0x1000, 0x1000)
        // PT_NOTE, readable.
        file.put32(4, 4)
        file.put64(UInt64(Self.noteOffset), 0, 0, 24, 24, 4)
        file.fill(to: Self.noteOffset)
        // XEN_ELFNOTE_PHYS32_ENTRY (Xen, public/elfnote.h).
        file.put32(4, 8, 18)
        file.put(Array("Xen\0".utf8))
        file.put64(address)
        file.fill(to: Self.codeOffset)
        file.put(code)
        file.fill(to: Self.fileSize)
        return file.data
    }

    /// 32-bit protected mode without paging.
    private var code: [UInt8] {
        // mov dx, 0x3f8; mov al, byte; out dx, al
        let output: [UInt8] = [0x66, 0xba, 0xf8, 0x03, 0xb0, Self.byte, 0xee]
        return switch end {
        case .halt:
            // cli; hlt; jmp to the hlt
            output + [0xfa, 0xf4, 0xeb, 0xfd]
        case .tripleFault:
            // lidt from zeroes at the load address + 0x100; ud2
            output + [0x0f, 0x01, 0x1d, 0x00, 0x01, 0x10, 0x00, 0x0f, 0x0b]
        }
    }

    /// A file that grows by little-endian numbers.
    private struct Bytes {
        private(set) var data = Data()

        mutating func put(_ pieces: [UInt8]...) {
            for piece in pieces { data.append(contentsOf: piece) }
        }
        mutating func put16(_ values: UInt16...) { values.forEach { append($0) } }
        mutating func put32(_ values: UInt32...) { values.forEach { append($0) } }
        mutating func put64(_ values: UInt64...) { values.forEach { append($0) } }
        mutating func fill(to size: Int) {
            data.append(contentsOf: [UInt8](repeating: 0, count: size - data.count))
        }

        private mutating func append(_ value: some FixedWidthInteger) {
            for byte in 0..<value.bitWidth / 8 {
                data.append(UInt8(truncatingIfNeeded: value >> (8 * byte)))
            }
        }
    }
}
