public import Core

/// Executes single instructions for a provider that cannot: KVM gives up on what its emulator
/// lacks.
public protocol InstructionFallback: AnyObject, Sendable {
    /// Executes the instruction at `state.rip` on the machine's memory and devices, with whatever
    /// exception it raises.
    /// - Parameter cpu: the CPU's index. Each CPU has a thread of its own that calls.
    func execute(cpu: Int, _ state: inout CPUState) -> FallbackResult

    /// As in `VirtualMachine`.
    func place(_ window: SharedWindow, at address: GuestAddress?) -> Bool
}

/// What came of `InstructionFallback.execute`.
public enum FallbackResult: Sendable, Equatable {
    /// Go on with the new state.
    case done
    /// The same, and a device access asked for something.
    case effect(MachineEffect)
    /// A fault in the handler of a double fault.
    case tripleFault
    /// The fallback cannot execute the instruction either, or not on such a state. The state has
    /// not changed. Memory may have, and `extendedImage`, if the instruction wrote to them before
    /// it came to the local APIC, which is the provider's.
    case unsupported
}
