internal import CLinux

/// The user, mount, network and IPC namespaces of a process that has left the host's, open for
/// another process of the same user to enter.
package struct Namespaces: Sendable {
    package let fds: [SharedFD]

    /// Takes what another process has opened; `nil` if there are not as many as there must be.
    package init?(_ fds: [SharedFD]) {
        guard fds.count == CLINUX_NAMESPACE_COUNT else { return nil }
        self.fds = fds
    }

    /// Those of this process.
    static func open() -> Namespaces? {
        var numbers = [Int32](repeating: -1, count: CLINUX_NAMESPACE_COUNT)
        // SAFETY: the array has a place for each.
        let code = unsafe clinux_open_namespaces(&numbers)
        return code == 0 ? Namespaces(numbers.map { SharedFD(owning: $0) }) : nil
    }

    /// Enters them. The process must have one thread.
    func join() -> Bool {
        let numbers = fds.map { $0.rawValue }
        // SAFETY: `init` has seen to the count.
        let code = unsafe clinux_join_namespaces(numbers)
        withExtendedLifetime(fds) {}
        if code == 0 { return true }
        let reason = SystemError("setns", errno: -code).reason
        Sandbox.log(.debug, "the launcher's namespaces cannot be entered: \(reason)")
        return false
    }
}
