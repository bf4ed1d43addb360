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

/// Finds the first line of user space in what a guest prints: one without the kernel's time stamp.
///
/// The kernel prints single lines without a stamp, too ("Poking KASLR using RDTSC..." with
/// `earlyprintk`). So a kernel that prints its log must have said that it runs `init`, or a second
/// such line must follow: the log may be cut down to warnings.
struct UserLineFinder {
    private enum Previous { case none, kernel, initStart, plain }

    private var line: [UInt8] = []
    private var previous = Previous.none
    private(set) var isFound = false

    /// Takes output as it comes.
    /// - Returns: whether the line was found in it.
    mutating func feed(_ bytes: [UInt8]) -> Bool {
        for byte in bytes where !isFound {
            if byte == UInt8(ascii: "\n") {
                if !line.isEmpty { take(line) }
                line = []
            } else if byte != UInt8(ascii: "\r"), line.count < 80 {
                line.append(byte)
            }
        }
        return isFound
    }

    private mutating func take(_ line: [UInt8]) {
        if line.first != UInt8(ascii: "[") {
            isFound = previous != .kernel
            previous = .plain
        } else if previous != .initStart {
            // For example "[    4.006221] Run /init as init process".
            let text = line.drop { $0 != UInt8(ascii: "]") }.dropFirst(2)
            previous = text.starts(with: Self.initMessage) ? .initStart : .kernel
        }
    }

    private static let initMessage = Array("Run /".utf8)
}
