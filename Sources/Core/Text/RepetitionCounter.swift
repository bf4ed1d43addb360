internal import Synchronization

/// Counts what may happen again and again, and says which times are worth a message: the first
/// few, and then fewer and fewer. Any thread may count.
package struct RepetitionCounter: ~Copyable, Sendable {
    package enum Report: Equatable, Sendable {
        case none
        /// Tell of this time.
        case one
        /// Tell how often it has happened so far.
        case sum(UInt64)
    }

    private static let first = 3
    private let count = Atomic<UInt64>(0)

    package init() {}

    /// Counts one more.
    package func next() -> Report {
        let count = count.wrappingAdd(1, ordering: .relaxed).newValue
        if count <= Self.first { return .one }
        var rest = count
        while rest % 10 == 0 { rest /= 10 }
        return rest == 1 ? .sum(count) : .none
    }
}
