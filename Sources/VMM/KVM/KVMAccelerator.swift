public import Accelerator
public import Core

/// The host's hardware virtualisation as a provider of CPUs.
public struct KVMAccelerator: Accelerator {
    public static let name = "kvm"

    private let host: KVMHost
    private let cpuCount: Int
    private let fallback: (any InstructionFallback)?

    /// - Parameters:
    ///   - cpuCount: how many CPUs the machine will have.
    ///   - fallback: what executes instructions on which KVM gives up.
    public init(_ host: KVMHost, cpuCount: Int, fallback: (any InstructionFallback)? = nil) {
        self.host = host
        self.cpuCount = cpuCount
        self.fallback = fallback
    }

    public func makeVirtualMachine(
        memory: GuestMemory, surface: any ExitSurface
    ) throws(AcceleratorError) -> any VirtualMachine {
        try KVMVirtualMachine(
            host, memory: memory, surface: surface, cpuCount: cpuCount, fallback: fallback)
    }
}
