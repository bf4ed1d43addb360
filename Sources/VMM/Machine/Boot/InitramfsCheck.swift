/// Tells a whole initramfs from a truncated one before the guest finds out half-way.
enum InitramfsCheck {
    private static let formats: [[UInt8]] = [
        [0x1f, 0x8b], [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0], [0x28, 0xb5, 0x2f, 0xfd],
        [0x02, 0x21, 0x4c, 0x18], [0x42, 0x5a, 0x68], [0x5d, 0, 0], [0x89, 0x4c, 0x5a],
    ]

    /// Walks the members of the cpio archives (Linux, Documentation/driver-api/early-userspace/
    /// buffer-format.rst) up to the end, or up to a packed archive, which only the guest unpacks.
    /// - Returns: what is wrong, or `nil`.
    static func problem(_ image: ImageBytes) -> String? {
        var position = 0
        var isEnded = false
        while true {
            while position < image.count, image.load(position, as: UInt8.self) == 0 {
                position += 1
            }
            if position == image.count {
                return isEnded ? nil : "is truncated: the archive does not end"
            }
            if formats.contains(where: { image.matches($0, at: position) }) { return nil }
            guard image.matches(Array("07070".utf8), at: position) else {
                return position == 0
                    ? "is neither a cpio archive nor a packed one"
                    : "is damaged at byte \(position)"
            }
            guard let fileSize = hexadecimal(image, position + 54),
                let nameSize = hexadecimal(image, position + 94)
            else { return "is truncated or damaged at byte \(position)" }
            let name = position + 110
            let data = (name + nameSize + 3) & ~3
            guard
                image.contains(data, fileSize) || (fileSize == 0 && image.contains(name, nameSize))
            else { return "is truncated: a file in it does not end" }
            isEnded = image.matches(Array("TRAILER!!!".utf8), at: name)
            position = min((data + fileSize + 3) & ~3, image.count)
        }
    }

    /// The eight hexadecimal digits at `offset`.
    private static func hexadecimal(_ image: ImageBytes, _ offset: Int) -> Int? {
        guard image.contains(offset, 8) else { return nil }
        return Int(String(decoding: image.copy(offset, 8), as: UTF8.self), radix: 16)
            .flatMap { $0 < 0 ? nil : $0 }
    }
}
