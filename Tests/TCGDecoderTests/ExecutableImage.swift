import Glibc

/// The machine code of an ELF file.
struct ExecutableImage {
    enum Failure: Error { case unreadable, malformed }

    /// An executable section's name and its bytes in the file.
    struct Section {
        let name: String
        let range: Range<Int>
    }

    let bytes: [UInt8]
    let sections: [Section]

    init(path: String) throws(Failure) { try self.init(Self.read(path)) }

    /// Finds the executable sections of a 64-bit little-endian ELF file.
    init(_ contents: [UInt8]) throws(Failure) {
        guard contents.count >= 64, contents.starts(with: [0x7F, 0x45, 0x4C, 0x46, 2, 1]) else {
            throw .malformed
        }
        func number(_ offset: Int, _ size: Int) throws(Failure) -> Int {
            guard offset >= 0, offset <= contents.count - size else { throw .malformed }
            var value: UInt64 = 0
            for index in (0..<size).reversed() {
                value = value << 8 | UInt64(contents[offset + index])
            }
            guard let value = Int(exactly: value) else { throw .malformed }
            return value
        }
        // e_shoff, e_shentsize, e_shnum, e_shstrndx.
        let table = try number(0x28, 8)
        let entrySize = try number(0x3A, 2)
        let count = try number(0x3C, 2)
        let names = try number(table + number(0x3E, 2) * entrySize + 0x18, 8)
        var found: [Section] = []
        for index in 0..<count {
            let header = table + index * entrySize
            // SHT_PROGBITS with SHF_EXECINSTR.
            guard try number(header + 4, 4) == 1, try number(header + 8, 8) & 4 != 0 else {
                continue
            }
            let offset = try number(header + 0x18, 8)
            let size = try number(header + 0x20, 8)
            guard size <= contents.count, offset <= contents.count - size else { throw .malformed }
            let start = names + (try number(header, 4))
            let end = contents[start...].firstIndex(of: 0) ?? start
            found.append(
                Section(
                    name: String(decoding: contents[start..<end], as: UTF8.self),
                    range: offset..<offset + size))
        }
        bytes = contents
        sections = found
    }

    private static func read(_ path: String) throws(Failure) -> [UInt8] {
        // SAFETY: the stream is closed before it goes out of use; the buffer is as long as said.
        guard let file = unsafe fopen(path, "rb") else { throw .unreadable }
        defer { unsafe fclose(file) }
        guard unsafe fseek(file, 0, SEEK_END) == 0 else { throw .unreadable }
        let size = unsafe ftell(file)
        guard size > 0, unsafe fseek(file, 0, SEEK_SET) == 0 else { throw .unreadable }
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            unsafe count = fread(buffer.baseAddress, 1, size, file)
        }
        guard bytes.count == size else { throw .unreadable }
        return bytes
    }
}
