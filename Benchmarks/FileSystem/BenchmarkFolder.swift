import Foundation

/// A folder in memory that is shared: a large file, a folder with many files, and folders to work
/// in. Removed at the end.
final class BenchmarkFolder {
    static let dataSize = 64 << 20
    /// Files of the folder that is listed.
    static let fileCount = 1000
    /// Bytes that a listing asks for at a time, as Linux does.
    static let listingSize = 4096

    let path: String
    private let manager = FileManager.default

    init(parent: String) throws {
        path = "\(parent)/apus-fs-benchmark-\(getpid())"
        for name in ["list", "work"] {
            try manager.createDirectory(
                atPath: "\(path)/\(name)", withIntermediateDirectories: true)
        }
        let piece = Data((0..<Self.dataSize).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) })
        try piece.write(to: URL(fileURLWithPath: "\(path)/data"))
        // Requests are those of an ordinary user.
        unsafe chmod(path + "/data", 0o666)
        try makeFiles("list", Self.fileCount)
    }

    deinit { try? manager.removeItem(atPath: path) }

    static func name(of place: Int) -> String { "place-\(place)" }

    /// As many digits for each number, for a request of constant size.
    static func fileName(_ number: Int) -> [UInt8] {
        var digits = [UInt8](repeating: UInt8(ascii: "0"), count: 8)
        var rest = number
        for index in digits.indices.reversed() {
            digits[index] += UInt8(rest % 10)
            rest /= 10
        }
        return digits
    }

    /// Empties the folders to work in.
    /// - Parameter files: files that are put into each.
    func prepareWork(places: Int, files: Int) throws {
        try manager.removeItem(atPath: "\(path)/work")
        for place in 0..<places {
            let name = "work/\(Self.name(of: place))"
            try manager.createDirectory(
                atPath: "\(path)/\(name)", withIntermediateDirectories: true)
            unsafe chmod("\(path)/\(name)", 0o777)
            try makeFiles(name, files)
        }
    }

    private func makeFiles(_ folder: String, _ count: Int) throws {
        for number in 0..<count {
            let file = "\(path)/\(folder)/\(String(decoding: Self.fileName(number), as: UTF8.self))"
            let fd = unsafe open(file, O_CREAT | O_WRONLY, 0o644)
            guard fd >= 0 else { throw CocoaError(.fileWriteUnknown) }
            close(fd)
        }
    }
}
