package import Core

extension SystemCallRules {
    /// What the control thread of any back end asks of the kernel: it serves a Unix socket.
    package static var backendControl: SystemCallRules {
        var rules = base
        rules.add(.dataMemory)
        rules.add(.messages)
        rules.add(.narrowing)
        rules.allow("accept4", "unlink")
        return rules
    }
}
