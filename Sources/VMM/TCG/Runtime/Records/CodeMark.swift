/// What a piece of translated code is for: it goes from one mark to the next in the same part of
/// the arena.
struct CodeMark: BitwiseCopyable {
    /// Where in the arena the piece begins.
    var place: Int
    /// The operation's number in the trace, or one of those below.
    var operation: Int

    /// The look whether the code may run.
    static let entry = -1
    /// No code: exits, addresses of blocks, places that move.
    static let data = -2
}

// Which code is whose, for listings. Nothing of it is kept unless somebody wants it.

extension HostBlock {
    /// What follows is for an operation.
    mutating func mark(_ operation: Int) {
        if keepsMarks { marks.append(CodeMark(place: code.position, operation: operation)) }
    }

    /// What follows is for the operation whose code holds `jump`.
    mutating func mark(coldOf jump: Int) {
        guard keepsMarks else { return }
        let own = marks[markStart...].last {
            $0.place <= jump && arena.isCold($0.place) == arena.isCold(jump)
        }
        mark(own?.operation ?? CodeMark.entry)
    }
}
