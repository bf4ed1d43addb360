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
        let reason: String
        do {
            let host = try KVMHost()
            if let shortcoming = host.shortcoming {
                reason = "this host's KVM does not run ordinary kernels, as \(shortcoming)"
            } else {
                let machine = try makeKVM(host)
                Self.log(.info, "the guest runs on kvm")
                return machine
            }
        } catch {
            reason = error.description
        }
        Self.log(.info, "the guest runs on tcg: \(reason)")
        return try makeTCG(tcg)
    }

    private func makeTCG(_ options: TCGOptions) throws(AcceleratorError) -> any VirtualMachine {
        try TCGAccelerator(options: options).makeVirtualMachine(memory: memory, surface: surface)
    }

    private func makeKVM(_ host: KVMHost) throws(AcceleratorError) -> any VirtualMachine {
        let fallback = TCGFallback(memory: memory, surface: surface, cpuCount: cpuCount)
        return try KVMAccelerator(host, cpuCount: cpuCount, fallback: fallback)
            .makeVirtualMachine(memory: memory, surface: surface)
    }
}
