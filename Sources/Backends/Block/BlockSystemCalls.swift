package import Core
internal import VhostUser

/// What the threads of a disk's process may ask of the kernel.
package enum BlockSystemCalls {
    /// Those that serve queues.
    package static var queue: SystemCallRules {
        var rules = SystemCallRules.base
        rules.add(.dataMemory)
        rules.add(io)
        return rules
    }

    private static var io: SystemCallRules {
        var rules = SystemCallRules()
        rules.allow(
            "io_uring_enter", "io_uring_register", "io_submit", "io_getevents", "io_destroy",
            "preadv", "pwritev", "preadv2", "pwritev2", "fdatasync", "fallocate")
        rules.allow("ioctl", argument: 1, oneOf: [discard])
        return rules
    }

    /// The control thread: sets up and ends the queues, and talks to the front end.
    package static var control: SystemCallRules {
        var rules = SystemCallRules.backendControl
        rules.add(io)
        rules.allow("io_uring_setup", "io_setup", "statx")
        rules.allow("ioctl", argument: 1, oneOf: describing)
        return rules
    }

    private static let discard = 0x1277  // BLKDISCARD
    /// BLKROGET, BLKSSZGET, BLKIOMIN, BLKIOOPT, BLKALIGNOFF, BLKPBSZGET, BLKGETSIZE64
    private static let describing = [
        0x125e, 0x1268, 0x1278, 0x1279, 0x127a, 0x127b, 0x8008_1272,
    ]
}
