internal import CLinux
internal import Core
internal import Glibc
internal import Synchronization

/// When a machine's start reached its stages, for `--boot-timing`.
package final class BootTimeline: Sendable {
    /// The stages, in order.
    package enum Stage: Int, CaseIterable, Sendable {
        case optionsParsed, memoryReady, devicesReady, kernelLoaded
        case firstInstruction, firstSerialByte, firstUserLine

        var title: String {
            switch self {
            case .optionsParsed: "options parsed"
            case .memoryReady: "memory ready"
            case .devicesReady: "devices ready"
            case .kernelLoaded: "kernel loaded"
            case .firstInstruction: "first guest instruction"
            case .firstSerialByte: "first serial byte"
            case .firstUserLine: "first user-space line"
            }
        }
    }

    private let start: UInt64
    /// By the stage's raw value; zero where it has not been reached.
    private let times = Mutex([UInt64](repeating: 0, count: Stage.allCases.count))

    /// Call it first in the program: time before `main` is taken from the CPU time used so far.
    package init() {
        var used = timespec()
        // SAFETY: `used` lives for the call.
        unsafe clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used)
        let before = UInt64(used.tv_sec) * 1_000_000_000 + UInt64(used.tv_nsec)
        start = Clock.monotonic() - before
    }

    /// Notes that a stage has been reached, the first time. Any thread may call it.
    package func mark(_ stage: Stage) {
        let now = Clock.monotonic()
        times.withLock { times in
            if times[stage.rawValue] == 0 { times[stage.rawValue] = now }
        }
    }

    /// A line per stage that was reached: milliseconds since exec, and since the stage before.
    package var report: String {
        let times = times.withLock { $0 }
        var previous = start
        var lines = ["boot timing, in ms:  since exec  stage takes"]
        for stage in Stage.allCases {
            let time = times[stage.rawValue]
            guard time != 0 else { continue }
            let title = stage.title.padded(to: 24)
            lines.append(
                "  \(title)"
                    + Self.milliseconds(time - min(start, time)).padded(to: -7)
                    + Self.milliseconds(time - min(previous, time)).padded(to: -13))
            previous = time
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func milliseconds(_ nanoseconds: UInt64) -> String {
        let tenths = (nanoseconds + 50_000) / 100_000
        return "\(tenths / 10).\(tenths % 10)"
    }
}

extension String {
    /// Spaces after (or, for a negative width, before) the text up to a width.
    fileprivate func padded(to width: Int) -> String {
        let spaces = String(repeating: " ", count: max(0, abs(width) - count))
        return width < 0 ? spaces + self : self + spaces
    }
}

/// Finds the first line of user space in what a guest prints: the first that does not carry the
/// kernel's time stamp. The kernel has some without a stamp, too (`earlyprintk`), but only before its
/// clock runs: they follow lines whose stamps are zero.
struct UserLineFinder {
    private var line: [UInt8] = []
    private var isClockAtZero = false
    private(set) var isFound = false

    /// Takes output as it comes.
    /// - Returns: whether the line was found in it.
    mutating func feed(_ bytes: [UInt8]) -> Bool {
        for byte in bytes where !isFound {
            if byte == UInt8(ascii: "\n") {
                if line.first == UInt8(ascii: "[") {
                    let stamp = line.prefix { $0 != UInt8(ascii: "]") }
                    let digits = UInt8(ascii: "1")...UInt8(ascii: "9")
                    isClockAtZero = !stamp.contains { digits.contains($0) }
                } else {
                    isFound = !line.isEmpty && !isClockAtZero
                }
                line = []
            } else if byte != UInt8(ascii: "\r"), line.count < 80 {
                line.append(byte)
            }
        }
        return isFound
    }
}
