/// Decodes x86 machine code of every mode.
public struct Decoder: Sendable {
    public let mode: CodeMode

    public init(mode: CodeMode) { self.mode = mode }

    /// Decodes the instruction at the start of `bytes`, which holds what is available of it;
    /// 15 bytes are always enough.
    public func decode(_ bytes: Span<UInt8>) -> DecodeResult { .undefined }
}
