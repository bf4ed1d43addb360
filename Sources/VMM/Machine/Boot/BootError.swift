/// A guest cannot be started from what was given; one sentence for the user.
package struct BootError: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String
    /// Whether another process has told the user already.
    let isReported: Bool

    init(_ description: String, isReported: Bool = false) {
        self.description = description
        self.isReported = isReported
    }
}
