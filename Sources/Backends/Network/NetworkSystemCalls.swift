package import Core
internal import Glibc
internal import VhostUser

/// What the threads of a network interface's process may ask of the kernel.
package enum NetworkSystemCalls {
    /// Those that serve pairs of queues.
    package static var pair: SystemCallRules {
        var rules = SystemCallRules.base
        rules.add(.dataMemory)
        rules.add(sockets)
        return rules
    }

    private static var sockets: SystemCallRules {
        var rules = SystemCallRules()
        rules.allow("sendmsg", "recvmsg", "accept4", "connect")
        rules.allow("socket", argument: 0, oneOf: [Int(AF_UNIX)])
        // Whether a tap interface is gone.
        rules.allow("ioctl", argument: 1, oneOf: [0x8004_54d2])  // TUNGETIFF
        return rules
    }

    /// The control thread: sets up and ends the pairs, and talks to the front end.
    package static var control: SystemCallRules {
        var rules = SystemCallRules.backendControl
        rules.add(sockets)
        // A thread goes where the peers' sockets are before it gives up the rest.
        rules.allow("unshare", argument: 0, oneOf: [cloneFS])
        rules.allow("fchdir")
        rules.allow("ioctl", argument: 1, oneOf: tap)
        return rules
    }

    /// TUNGETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ, TUNSETQUEUE
    private static let tap = [0x8004_54d2, 0x4004_54d0, 0x4004_54d8, 0x4004_54d9]
    private static let cloneFS = 0x200  // CLONE_FS
}
