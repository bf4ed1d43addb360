public import Accelerator
public import Core

/// Apus's own CPU as a provider.
public struct TCGAccelerator: Accelerator {
    public static let name = "tcg"

    public let options: TCGOptions
    private let files: TCGFiles

    public init(options: TCGOptions = TCGOptions(), files: TCGFiles = TCGFiles()) {
        self.options = options
        self.files = files
    }

    public func makeVirtualMachine(
        memory: GuestMemory, surface: any ExitSurface
    ) throws(AcceleratorError) -> any VirtualMachine {
        let missing = CPUModel.missing(options.model)
        guard missing.isEmpty else {
            throw AcceleratorError(
                "guests cannot have the processor \(options.model.rawValue), because the host's"
                    + " lacks \(missing.joined(separator: ", ")); --cpu max is all that it has")
        }
        return TCGVirtualMachine(memory: memory, surface: surface, options: options, files: files)
    }
}
