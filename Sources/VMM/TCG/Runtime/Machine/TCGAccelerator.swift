public import Accelerator
public import Core

/// Apus's own CPU as a provider.
public struct TCGAccelerator: Accelerator {
    public static let name = "tcg"

    public let options: TCGOptions

    public init(options: TCGOptions = TCGOptions()) { self.options = options }

    public func makeVirtualMachine(
        memory: GuestMemory, surface: any ExitSurface
    ) throws(AcceleratorError) -> any VirtualMachine {
        TCGVirtualMachine(memory: memory, surface: surface, options: options)
    }
}
