internal import Glibc

/// The executable that was built together with the tests.
public enum BuiltExecutable {
    /// Its path; `nil` where it was not built.
    public static let path: String? = {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = unsafe buffer.withUnsafeMutableBytes {
            unsafe readlink("/proc/self/exe", $0.baseAddress.unsafelyUnwrapped, $0.count)
        }
        let own = String(decoding: buffer.prefix(max(count, 0)), as: UTF8.self)
        for candidate in [own] + CommandLine.arguments {
            guard let slash = candidate.lastIndex(of: "/") else { continue }
            let path = "\(candidate[..<slash])/apus"
            if unsafe access(path, X_OK) == 0 { return path }
        }
        return nil
    }()
}
