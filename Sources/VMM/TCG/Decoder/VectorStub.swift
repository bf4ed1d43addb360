extension DecodeState {
    mutating func decodeVEX(escape: UInt8, _ bytes: Span<UInt8>) throws(DecodeFailure) {
        throw .undefined
    }
    mutating func decodeEVEX(_ bytes: Span<UInt8>) throws(DecodeFailure) { throw .undefined }
    mutating func decodeXOP(_ bytes: Span<UInt8>) throws(DecodeFailure) { throw .undefined }
}
func vectorGroupEntry(
    _ group: OpcodeGroup, _ reg: UInt8, isRegister: Bool, _ context: EntryContext
) -> TableEntry { .undefined }
