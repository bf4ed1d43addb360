/// One thing that must stand any input. What it is made of may live as long as the process, but
/// the outcome of an input must not depend on the inputs before it.
protocol FuzzTarget: SendableMetatype {
    static var name: String { get }
    static var about: String { get }
    /// Inputs that get far, for others to be made of.
    static var seeds: [[UInt8]] { get }
    /// How many random inputs `./test` runs.
    static var testCount: Int { get }

    init() throws

    /// Runs one input.
    /// - Returns: whether it got past the first checks; of random inputs some must.
    /// - Throws: what did not hold.
    mutating func run(_ input: inout FuzzInput) throws -> Bool
}

extension FuzzTarget {
    static var testCount: Int { 2000 }
}

/// Something that must hold did not.
struct FuzzFailure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

func require(_ condition: Bool, _ message: @autoclosure () -> String) throws {
    if !condition { throw FuzzFailure(message()) }
}

enum FuzzTargets {
    static let all: [any FuzzTarget.Type] = [
        CodecTarget.self,
        BackendServerTarget.self,
        FrontendTarget.self,
        SplitQueueTarget.self,
        PackedQueueTarget.self,
        BlockTarget.self,
        ConsoleTarget.self,
        NetworkTarget.self,
        RandomTarget.self,
        SharedFolderTarget.self,
        FolderStateTarget.self,
        PCIConfigTarget.self,
        HotPlugTarget.self,
        VirtioPCITarget.self,
        SwitchTarget.self,
        VsockTarget.self,
        SerialTarget.self,
        IOAPICTarget.self,
        LocalAPICTarget.self,
        KernelTarget.self,
        PayloadTarget.self,
        InitramfsTarget.self,
        OptionsTarget.self,
        QMPTarget.self,
        DecoderTarget.self,
        InterpreterTarget.self,
        FallbackTarget.self,
    ]

    static func named(_ name: String) -> (any FuzzTarget.Type)? { all.first { $0.name == name } }
}
