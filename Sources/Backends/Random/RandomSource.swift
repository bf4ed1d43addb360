internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// Where random bytes come from: the kernel, or a file that the user named.
final class RandomSource {
    private let file: SharedFD?

    /// Opens what the options name.
    static func open(_ options: RandomOptions) throws -> [SharedFD] {
        guard let path = options.path else { return [] }
        // SAFETY: the path lives for the call.
        let result = unsafe clinux_open(path, O_RDONLY | O_NONBLOCK, 0)
        guard result >= 0 else {
            let reason = SystemError("open", errno: -result).reason
            throw BackendError("cannot open the source \(path): \(reason)")
        }
        return [SharedFD(owning: result)]
    }

    /// - Parameter files: what `open` has opened.
    init(_ files: [SharedFD]) { file = files.first }

    /// Fills `bytes` from their start.
    /// - Returns: how many there are now. The kernel gives all; a file may end, or have nothing
    ///   yet.
    func fill(_ bytes: UnsafeMutableRawBufferPointer) -> Int {
        guard let address = bytes.baseAddress else { return 0 }
        while true {
            // SAFETY: the buffer is the caller's and as long as it says.
            if let file {
                let count = unsafe read(file.rawValue, address, bytes.count)
                if count >= 0 { return count }
                guard errno == EINTR else { return 0 }
            } else {
                let count = unsafe clinux_random(address, bytes.count)
                if count >= 0 { return count }
                guard count == -Int(EINTR) else { return 0 }
            }
        }
    }
}
