package import Core
import CLinux
import Glibc

/// A folder of a test's own, removed at its end with all that is in it.
package final class TestFolder: Sendable {
    package let path: String

    /// - Parameter parent: where to make it; `/dev/shm` for files that are in memory. Paths are
    ///   short, so that sockets may be in it.
    package init(in parent: String = "/tmp") throws(SystemError) {
        var template = Array("\(parent)/apus-test-XXXXXX".utf8CString)
        // SAFETY: the template ends with a zero, and mkdtemp writes within it.
        guard unsafe mkdtemp(&template) != nil else { throw SystemError("mkdtemp", errno: errno) }
        path = String(decoding: template.dropLast().map(UInt8.init), as: UTF8.self)
    }

    deinit { Self.remove(path) }

    /// Removes a file, or a folder with what it holds. Links are not followed.
    private static func remove(_ path: String) {
        // SAFETY: paths live for the calls.
        if unsafe unlink(path) == 0 { return }
        for name in readFolder(path) { remove("\(path)/\(name)") }
        unsafe rmdir(path)
    }

    /// Where a file of that name is, or would be.
    package subscript(_ name: String) -> String { "\(path)/\(name)" }

    /// Makes a file.
    /// - Returns: its path.
    @discardableResult
    package func file(
        _ name: String, _ contents: some Sequence<UInt8> = [] as [UInt8]
    ) throws(SystemError) -> String {
        let fd = try Self.create(self[name])
        let bytes = Array(contents)
        var done = 0
        while done < bytes.count {
            // SAFETY: the bytes live for the call.
            done += try retrying("write") {
                unsafe bytes[done...].withUnsafeBytes {
                    unsafe write(fd.rawValue, $0.baseAddress, $0.count)
                }
            }
        }
        return self[name]
    }

    /// Makes a file of zeroes that takes no room.
    package func sparse(_ name: String, size: UInt64) throws(SystemError) -> String {
        let fd = try Self.create(self[name])
        _ = try retrying("ftruncate") { ftruncate(fd.rawValue, Int(size)) }
        return self[name]
    }

    private static func create(_ path: String) throws(SystemError) -> OwnedFD {
        // SAFETY: the path lives for the call.
        let fd = unsafe clinux_open(path, O_RDWR | O_CREAT | O_TRUNC, 0o644)
        return OwnedFD(owning: try checking("open", fd))
    }
}
