/// Decodes x86 machine code of every mode.
public struct Decoder: Sendable {
    public let mode: CodeMode

    public init(mode: CodeMode) { self.mode = mode }
}
