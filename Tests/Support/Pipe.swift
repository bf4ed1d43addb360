import CLinux
package import Core
import Glibc

/// A pipe whose ends do not wait.
package final class Pipe {
    package let output: SharedFD
    package let input: SharedFD

    package init() throws {
        var ends: [Int32] = [-1, -1]
        // SAFETY: the array has room for both descriptors.
        _ = try checking("pipe", unsafe clinux_pipe(&ends))
        output = SharedFD(owning: ends[0])
        input = SharedFD(owning: ends[1])
    }
}

extension SharedFD {
    /// Reads what there is.
    /// - Returns: whether that was the end.
    package func readAvailable(into bytes: inout [UInt8]) -> Bool {
        var part = [UInt8](repeating: 0, count: 65536)
        while true {
            // SAFETY: the buffer lives for the call.
            let count = unsafe Glibc.read(rawValue, &part, part.count)
            guard count > 0 else { return count == 0 }
            bytes += part.prefix(count)
        }
    }

    /// Writes what there is room for.
    /// - Returns: how much that was.
    package func writeAvailable(_ bytes: ArraySlice<UInt8>) -> Int {
        // SAFETY: the buffer lives for the call.
        let count = unsafe bytes.withUnsafeBytes { buffer in
            unsafe Glibc.write(rawValue, buffer.baseAddress, buffer.count)
        }
        return max(count, 0)
    }
}
