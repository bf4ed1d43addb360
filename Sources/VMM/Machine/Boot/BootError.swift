/// A guest cannot be started from the files that were given; one sentence for the user.
package struct BootError: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String

    init(_ description: String) { self.description = description }
}
