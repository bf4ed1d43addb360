/// A back-end program, or its device, cannot work; one sentence for the user.
package struct BackendError: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}
