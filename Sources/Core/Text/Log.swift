internal import Glibc
internal import Synchronization

/// Messages of one component to standard error, one line each.
///
/// A component keeps its `Log` in a static constant and calls it: `log(.warning, "...")`. A
/// message is built only if it is shown. Any thread may log.
public final class Log: Sendable {
    /// How much a message matters.
    public enum Level: String, Sendable, Comparable, CaseIterable {
        /// The user must act.
        case error
        /// Something was wrong and the program went on.
        case warning
        /// A few lines per run.
        case info
        /// For developers.
        case debug

        /// As on the command line, for example `warning`.
        public var name: String { rawValue }

        var rank: UInt8 {
            switch self {
            case .error: 0
            case .warning: 1
            case .info: 2
            case .debug: 3
            }
        }

        public static func < (a: Level, b: Level) -> Bool { a.rank < b.rank }
    }

    /// What `guest` lets through: a burst, and then nothing until the period is over.
    private struct Limiter {
        static let burst = 5
        static let periodNanoseconds: UInt64 = 5_000_000_000
        var periodStart: UInt64 = 0
        var shown = 0
        var dropped = 0
    }

    private static let processLevel = Atomic<UInt8>(Level.warning.rank)
    private static let processName = Lock("apus")

    private let component: String
    private let fixedLevel: Level?
    private let output: @Sendable (String) -> Void
    private let now: @Sendable () -> UInt64
    private let limiter = Lock(Limiter())

    /// Makes the log of a component; `component` starts its messages.
    public init(_ component: String) {
        self.component = component
        fixedLevel = nil
        output = Log.writeToStandardError
        now = Clock.monotonic
    }

    /// For tests: a level and an output of its own.
    package init(
        _ component: String, level: Level, now: @escaping @Sendable () -> UInt64,
        output: @escaping @Sendable (String) -> Void
    ) {
        self.component = component
        fixedLevel = level
        self.output = output
        self.now = now
    }

    /// Sets the process's name in messages and the least important level that is shown. The
    /// program's entry calls it once.
    public static func configure(program: String, level: Level) {
        processName.withLock { $0 = program }
        processLevel.store(level.rank, ordering: .relaxed)
    }

    /// Whether messages of `level` are shown.
    public func shows(_ level: Level) -> Bool {
        level.rank <= (fixedLevel?.rank ?? Log.processLevel.load(ordering: .relaxed))
    }

    /// Shows a message, one sentence without a full stop.
    public func callAsFunction(_ level: Level, _ message: @autoclosure () -> String) {
        guard shows(level) else { return }
        emit(level, message())
    }

    /// Warns of a mistake that a guest or a peer makes, which it may well repeat without end: a
    /// few messages every few seconds, then how many were dropped.
    public func guest(_ message: @autoclosure () -> String) {
        guard shows(.warning) else { return }
        let time = now()
        let (isShown, dropped) = limiter.withLock { limiter in
            var dropped = 0
            if time &- limiter.periodStart >= Limiter.periodNanoseconds {
                dropped = limiter.dropped
                limiter = Limiter(periodStart: time)
            }
            guard limiter.shown < Limiter.burst else {
                limiter.dropped += 1
                return (false, dropped)
            }
            limiter.shown += 1
            return (true, dropped)
        }
        if dropped > 0 { emit(.warning, "\(dropped) more messages were not shown") }
        if isShown { emit(.warning, message()) }
    }

    private func emit(_ level: Level, _ message: String) {
        output(Log.line(level, of: component, message))
    }

    /// - Parameter component: starts the message, unless it is the program itself.
    private static func line(
        _ level: Level, of component: String? = nil, _ message: String
    ) -> String {
        let program = processName.withLock { $0 }
        let prefix = component.map { $0 == program ? "" : $0 + ": " } ?? ""
        return "\(program): \(level.name): \(prefix)\(message)\n"
    }

    private static let standardError = MessageStream(STDERR_FILENO)

    private static func writeToStandardError(_ line: String) {
        standardError.write(line) { lost in
            Log.line(.warning, "\(lost) messages before this one were not taken, and are lost")
        }
    }
}
