/// Translated code with the guest's, as text that Tools/list-code shows side by side: a line
///
///     block LINEAR kernel|user [trace N]
///
/// and for each piece of code a line, with bytes and addresses in hexadecimal
///
///     guest OPERATION ADDRESS BYTES      one instruction
///     host OPERATION ADDRESS BYTES       code that runs often
///     rare OPERATION ADDRESS BYTES       code that runs rarely
///
/// `OPERATION` is the instruction's number in the block or trace; `entry` is the look whether the
/// code may run, and `data` is no code. Lines may begin with spaces.
// SAFETY: blocks and their code are the calling CPU's, and alive.
struct CodeListing {
    private(set) var text = HexText()
    /// What lines begin with.
    private let indent: String

    init(indent: String = "") { self.indent = indent }

    mutating func add(_ blocks: [Block]) {
        guard let first = blocks.first else { return }
        let isUser = first.key & ModeKey.user != 0
        text.add("\(indent)block ")
        text.digits(unsafe first.header.pointee.linear, 16)
        text.add(isUser ? " user" : " kernel")
        if blocks.count > 1 { text.add(" trace \(blocks.count)") }
        text.add("\n")
        var number = 0
        for block in blocks {
            addInstructions(block, number)
            number += unsafe Int(block.header.pointee.operationCount)
        }
    }

    private mutating func addInstructions(_ block: Block, _ first: Int) {
        let header = unsafe block.header.pointee
        for index in 0..<Int(header.count) {
            // SAFETY: the block's operations.
            let op = unsafe block.operations.pointer[index]
            let start = Int(op.nextOffset) - Int(op.length)
            begin("guest", first + index, header.rip &+ UInt64(start))
            unsafe text.bytes(block.bytes + start, Int(op.length))
            text.add("\n")
        }
    }

    /// - Parameter marks: of the block's code, in any order.
    mutating func add(
        codeOf header: UnsafePointer<BlockHeader>, _ marks: [CodeMark], _ arena: HostArena
    ) {
        let hot = unsafe Int(header.pointee.nativeEntry)
        let rare = unsafe Int(header.pointee.rarePlace)
        unsafe add("host", hot..<hot + Int(header.pointee.hostSize), marks, arena)
        unsafe add("rare", rare..<rare + Int(header.pointee.rareSize), marks, arena)
    }

    private mutating func add(
        _ word: String, _ range: Range<Int>, _ marks: [CodeMark], _ arena: HostArena
    ) {
        let own = marks.filter { range.contains($0.place) }.sorted { $0.place < $1.place }
        if let first = own.first, first.place > range.lowerBound {
            add(word, CodeMark.entry, range.lowerBound..<first.place, arena)
        }
        for (index, mark) in own.enumerated() {
            let end = index + 1 < own.count ? own[index + 1].place : range.upperBound
            add(word, mark.operation, mark.place..<end, arena)
        }
        if own.isEmpty { add(word, CodeMark.entry, range, arena) }
    }

    private mutating func add(
        _ word: String, _ operation: Int, _ range: Range<Int>, _ arena: HostArena
    ) {
        guard !range.isEmpty else { return }
        begin(word, operation, UInt64(arena.address(range.lowerBound)))
        unsafe text.bytes(arena.writable(range.lowerBound), range.count)
        text.add("\n")
    }

    private mutating func begin(_ word: String, _ operation: Int, _ address: UInt64) {
        let name =
            switch operation {
            case CodeMark.entry: "entry"
            case CodeMark.data: "data"
            default: String(operation)
            }
        text.add("\(indent)\(word) \(name) ")
        text.digits(address, 16)
        text.add(" ")
    }
}
