package import Core
package import TCG

/// Everything that a machine is made from.
package struct MachineOptions: Sendable {
    package var boot: BootSource
    package var cpuCount: Int
    package var memory: MemoryOptions
    package var accelerator: AcceleratorOptions
    package var serial: SerialBackend
    package var devices: [DeviceOptions]
    package var policies: EndPolicies
    /// Where the guest can end the machine with a status; `nil`: nowhere.
    package var debugExitPort: UInt16?
    /// Whether there is what test programs for processors use.
    package var hasTestDevice = false
    /// What the machine is called.
    package var name: String?
    /// Paths of Unix sockets where monitors listen.
    package var monitors: [String]
    /// Whether to report when the stages of the start were reached.
    package var showsBootTiming: Bool
    /// How far the VMM and the backends lock themselves in.
    package var sandbox = SandboxOptions()
    /// What the backend processes show.
    package var logLevel = Log.Level.warning
}

/// The guest's memory.
package struct MemoryOptions: Equatable, Sendable {
    package var size: UInt64 = 512 << 20
    package var backing = GuestMemoryOptions()
}

/// Who runs the guest's code.
package enum AcceleratorOptions: Equatable, Sendable {
    /// Apus's own CPU.
    case tcg(TCGOptions)
    /// The host's hardware virtualisation.
    case kvm
    /// KVM if it runs ordinary kernels here, else Apus's own CPU.
    case kvmOrTCG(TCGOptions)

    /// Whether guest time is counted instructions, so that runs can repeat.
    package var isCounted: Bool {
        if case .tcg(let options) = self { options.clock == .counted } else { false }
    }
}

/// What happens when a guest comes to an end of some kind.
package struct EndPolicies: Equatable, Sendable {
    package var reboot = EndPolicy.restart
    package var shutdown = EndPolicy.exit
    package var panic = EndPolicy.exit
    package var tripleFault = EndPolicy.exit
}
