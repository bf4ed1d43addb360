package import Core

/// A back-end program, or its device, cannot work; one sentence for the user.
package struct BackendError: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}

extension SharedFD {
    /// Owns what a wrapper of CLinux has opened.
    /// - Parameter failure: what cannot be done on which file, for a sentence that ends with the
    ///   reason.
    package convenience init(
        opened result: Int32, orFail failure: @autoclosure () -> String
    ) throws(BackendError) {
        guard result >= 0 else {
            let reason = SystemError("open", errno: -result).reason
            throw BackendError("\(failure()): \(reason)")
        }
        self.init(owning: result)
    }
}
