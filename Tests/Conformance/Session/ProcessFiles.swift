import CLinux
import Core
import Glibc
import TestSupport

/// What /proc says about processes, and other things that are read from files.
enum ProcessFiles {
    /// This process's environment.
    static var environment: [String] {
        (text("/proc/self/environ") ?? "").split(separator: "\0").map(String.init)
    }

    static func text(_ path: String) -> String? {
        let raw = unsafe clinux_open(path, O_RDONLY, 0)
        guard raw >= 0 else { return nil }
        let fd = OwnedFD(owning: raw)
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = unsafe read(fd.rawValue, &piece, piece.count)
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += piece[..<count]
        }
    }

    static func size(_ path: String) -> Int {
        var status = stat()
        // SAFETY: both arguments live for the call.
        return unsafe stat(path, &status) == 0 ? Int(status.st_size) : 0
    }

    /// The last line of a log, if it is behind `start` and in the last 4 KiB.
    static func lastLine(_ path: String, from start: Int) -> String? {
        let raw = unsafe clinux_open(path, O_RDONLY, 0)
        guard raw >= 0 else { return nil }
        let fd = OwnedFD(owning: raw)
        let place = max(start, size(path) - 4096)
        var piece = [UInt8](repeating: 0, count: 4096)
        let count = unsafe pread(fd.rawValue, &piece, piece.count, place)
        let lines = String(decoding: piece.prefix(max(count, 0)), as: UTF8.self)
        return lines.split(separator: "\n").last.map(String.init)
    }

    /// A number of a process and its children, added up.
    static func sum(_ process: Int32, _ number: (Int32) -> Int?) -> Int? {
        guard var total = number(process) else { return nil }
        let children = text("/proc/\(process)/task/\(process)/children") ?? ""
        for child in children.split(separator: " ").compactMap({ Int32($0) }) {
            total += sum(child, number) ?? 0
        }
        return total
    }

    static func descriptorCount(_ process: Int32) -> Int? {
        let count = readFolder("/proc/\(process)/fd").count
        return count > 0 ? count : nil
    }

    static func residentSize(_ process: Int32) -> Int? {
        let lines = (text("/proc/\(process)/status") ?? "").split(separator: "\n")
        let line = lines.first { $0.hasPrefix("VmRSS:") }
        return line?.split(whereSeparator: { $0 == " " || $0 == "\t" }).dropFirst().first
            .flatMap { Int($0) }
    }

    static func signalName(_ number: Int32) -> String {
        let names: [Int32: String] = [
            SIGABRT: "SIGABRT", SIGBUS: "SIGBUS", SIGFPE: "SIGFPE", SIGILL: "SIGILL",
            SIGKILL: "SIGKILL", SIGPIPE: "SIGPIPE", SIGSEGV: "SIGSEGV", SIGSYS: "SIGSYS",
            SIGTERM: "SIGTERM", SIGTRAP: "SIGTRAP",
        ]
        return names[number] ?? "signal \(number)"
    }
}

extension Descriptors {
    /// The end of a pipe that is written to.
    static func pipe() throws -> SharedFD {
        var ends: [Int32] = [-1, -1]
        // SAFETY: the array has room for both descriptors.
        guard unsafe Glibc.pipe(&ends) == 0 else { throw SystemError("pipe", errno: errno) }
        close(ends[0])
        return SharedFD(owning: ends[1])
    }

    /// A device that can neither be mapped nor waited for.
    static func null() throws -> SharedFD {
        SharedFD(owning: try checking("open", unsafe clinux_open("/dev/null", O_RDWR, 0)))
    }
}
