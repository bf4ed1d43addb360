import Core
import Foundation

/// A program that serves a device until it is told to end.
package final class PeerProcess {
    private let process: ChildProcess

    /// - Parameter isQuiet: what it prints is not for the user.
    package init(_ path: String, _ arguments: [String], isQuiet: Bool = false) throws {
        let quietly = ["/bin/sh", "-c", "exec \"$@\" > /dev/null 2>&1", "sh"]
        let command = (isQuiet ? quietly : []) + [path] + arguments
        process = try ChildProcess(path: command[0], arguments: command, environment: [])
    }

    /// By SIGTERM, which gives the image's lock back at once. QEMU's daemon sometimes hangs then.
    deinit {
        process.signal(SIGTERM)
        guard process.wait(milliseconds: 500) == nil else { return }
        process.signal(SIGKILL)
        _ = process.wait()
    }

    /// CPU time that all threads have used, its own and those of the processes that it started, in
    /// nanoseconds.
    package var cpuTime: UInt64 { Self.cpuTime(ofFamily: process.processID) }

    package var processID: Int32 { process.processID }

    private static func cpuTime(ofFamily process: Int32) -> UInt64 {
        let path = "/proc/\(process)/task/\(process)/children"
        let children = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
        return children.split(separator: " ").compactMap { Int32($0) }
            .reduce(cpuTime(of: process) ?? 0) { $0 + cpuTime(ofFamily: $1) }
    }

    /// CPU time that all threads of a process have used, in nanoseconds; `nil` if there is none.
    package static func cpuTime(of process: Int32) -> UInt64? {
        var clock = clockid_t()
        var time = timespec()
        // SAFETY: both results live for the calls.
        guard unsafe clock_getcpuclockid(process, &clock) == 0,
            unsafe clock_gettime(clock, &time) == 0
        else { return nil }
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
