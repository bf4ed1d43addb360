internal import CLinux
package import Core

/// What the threads of the VMM's process may ask of the kernel.
package enum VMMSystemCalls {
    /// Those that run virtual CPUs. They make code, and start a timer's thread.
    package static var cpu: SystemCallRules {
        var rules = running
        // Requests on machines and CPUs. Those on /dev/kvm, which makes machines, are below 0x10.
        for bit: UInt64 in [0x80, 0x40, 0x20, 0x10] {
            rules.allow("ioctl", argument: 1, mask: kvmMask | bit, is: kvmType | bit)
        }
        return rules
    }

    /// Those of devices: talk to backends, and bind their interrupts. Backends may be hostile, so
    /// nothing else of KVM is in reach.
    package static var device: SystemCallRules {
        var rules = serving
        rules.allow("ioctl", argument: 1, oneOf: kvmInterrupts)
        return rules
    }

    /// The machine's control thread: does so in the beginning, makes the other threads, talks to
    /// the terminal and to the monitors' clients, and reads the kernel.
    package static var control: SystemCallRules {
        var rules = running
        rules.add(serving)
        rules.add(.narrowing)
        rules.add(.terminal)
        rules.allow("ioctl", argument: 1, mask: kvmMask, is: kvmType)
        rules.allow("ioctl", argument: 1, oneOf: [setTerminalSize])
        rules.allow("accept4")
        return rules
    }

    private static var running: SystemCallRules {
        var rules = SystemCallRules.base
        rules.allow("mmap", "mprotect", "memfd_create", "ftruncate")
        return rules
    }

    private static var serving: SystemCallRules {
        var rules = SystemCallRules.base
        rules.add(.dataMemory)
        rules.add(.messages)
        rules.allow("connect", "waitid", "pidfd_send_signal")
        rules.allow("socket", argument: 0, oneOf: [unixDomain])
        return rules
    }

    /// All of KVM's requests: their type is 0xAE.
    private static let kvmMask: UInt64 = 0xff00
    private static let kvmType: UInt64 = 0xae00
    private static let kvmInterrupts = [
        CLINUX_KVM_IRQFD, CLINUX_KVM_SET_GSI_ROUTING, CLINUX_KVM_SIGNAL_MSI,
    ].map { Int($0) }
    private static let unixDomain = 1  // AF_UNIX
    private static let setTerminalSize = 0x5414  // TIOCSWINSZ
}
