internal import Accelerator
internal import Core
internal import KVM
internal import TCG

/// Makes the processors' side of a machine with the provider that the options name, or with the
/// first that is good for it.
struct AcceleratorChoice {
    private static let log = Log("accel")

    let options: AcceleratorOptions
    let cpuCount: Int
    let memory: GuestMemory
    let surface: any ExitSurface

    func makeVirtualMachine() throws(BootError) -> any VirtualMachine {
        do {
            switch options {
            case .tcg(let options): return try makeTCG(options)
            case .kvm:
                let host = try KVMHost()
                if let shortcoming = host.shortcoming {
                    Self.log(
                        .warning,
                        "this host's KVM is emulated and slow, and many kernels do not run on it:"
                            + " \(shortcoming)")
                }
                return try makeKVM(host)
            case .kvmOrTCG(let options): return try makeFirst(options)
            }
        } catch {
            throw BootError(error.description)
        }
    }

    /// KVM, unless it is not there, does not work or would not run an ordinary kernel.
    private func makeFirst(_ tcg: TCGOptions) throws(AcceleratorError) -> any VirtualMachine {
        do {
            let machine = try makeKVM(try Self.ordinaryKVM())
            Self.log(.info, "the guest runs on kvm")
            return machine
        } catch {
            Self.log(.info, "the guest runs on tcg: \(error.description)")
        }
        return try makeTCG(tcg)
    }

    private static func ordinaryKVM() throws(AcceleratorError) -> KVMHost {
        // Known without a look at KVM, whose table costs an exit to the hypervisor for each leaf if
        // the host is itself a guest.
        guard KVMHost.hasHardware else {
            throw AcceleratorError(
                "the processor has no virtualisation (VMX, SVM), so KVM would be emulated")
        }
        let host = try KVMHost()
        if let shortcoming = host.shortcoming {
            throw AcceleratorError(
                "this host's KVM does not run ordinary kernels, as \(shortcoming)")
        }
        return host
    }

    private func makeTCG(_ options: TCGOptions) throws(AcceleratorError) -> any VirtualMachine {
        try TCGAccelerator(options: options, files: try TCGFiles(opening: options))
            .makeVirtualMachine(memory: memory, surface: surface)
    }

    private func makeKVM(_ host: KVMHost) throws(AcceleratorError) -> any VirtualMachine {
        let fallback = TCGFallback(memory: memory, surface: surface, cpuCount: cpuCount)
        return try KVMAccelerator(host, cpuCount: cpuCount, fallback: fallback)
            .makeVirtualMachine(memory: memory, surface: surface)
    }
}
