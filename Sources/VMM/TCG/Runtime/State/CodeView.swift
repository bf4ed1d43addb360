/// What is known about the code that supervisor mode, or user mode, runs: in which generation it
/// was looked up, and on which pages.
///
/// A change of the address space concerns user mode alone as long as all supervisor code is on
/// global pages, and INVLPG concerns code only if there is some on the page.
struct CodeView: BitwiseCopyable {
    /// Changes whenever what is known about decoded code must be checked again. Never 0.
    var generation: UInt32 = 1
    /// The guest has come back to the address space since the generation began: blocks that may run in
    /// it may have been looked up elsewhere since, and have that generation.
    var hasReturned = false
    /// The guest has come back to the address space, whether its code was still known or not: so it may
    /// do so again.
    var isLive = false
    /// Some code was fetched from a page that is not global.
    var hasLocalCode = false
    /// Some code was fetched from a 1 GiB page.
    private var hasHugeCode = false
    private var pages = PageFilter<32>()
    private var largePages = PageFilter<8>()
    /// Which of the pages that the filter claims to hold it does hold.
    private var fetched: FetchedPages?

    /// Code was fetched from the page.
    /// - Parameter flags: the translation's `TLBFlags`.
    @inline(__always)
    mutating func note(_ linear: UInt64, flags: UInt64) {
        if flags & TLBFlags.global == 0 { hasLocalCode = true }
        if flags & TLBFlags.huge != 0 {
            hasHugeCode = true
        } else if flags & TLBFlags.large != 0 {
            largePages.insert(linear >> 21)
        } else {
            pages.insert(linear >> 12)
            fetched?.insert(linear >> 12, generation)
        }
    }

    /// Whether code may have been fetched by the translation of `linear`.
    func mayHaveCode(at linear: UInt64) -> Bool {
        hasHugeCode || mayHold(linear >> 12) || largePages.mayHoldLarge(linear)
    }

    private func mayHold(_ page: UInt64) -> Bool {
        pages.mayHold(page) && fetched?.mayHold(page, generation) ?? true
    }

    /// From here on all blocks are to be forgotten, and the count begins again: old ones would look
    /// current when it wraps. It is far away from there, because that can be done between two
    /// blocks only.
    static let lastGeneration: UInt32 = 1 << 31

    /// Nothing is known any more.
    /// - Parameter latest: the latest of all generations so far.
    mutating func renew(_ latest: inout UInt32) {
        latest &+= 1
        let wasLive = isLive
        self = CodeView(generation: latest, fetched)
        isLive = wasLive
    }

    /// The count of generations begins again.
    mutating func restart() {
        fetched?.removeAll()
        self = CodeView(generation: 1, fetched)
    }

    /// - Parameter fetched: without it, filters have to do.
    init(generation: UInt32 = 1, _ fetched: FetchedPages? = nil) {
        self.generation = generation
        self.fetched = fetched
    }
}

/// A set of page numbers that may claim to hold more than it does.
struct PageFilter<let words: Int>: BitwiseCopyable {
    private var bits = InlineArray<words, UInt64>(repeating: 0)

    @inline(__always)
    private func place(_ page: UInt64) -> (word: Int, bit: UInt64) {
        let number = (page ^ page >> 11) & UInt64(words * 64 - 1)
        return (Int(number >> 6), 1 << (number & 63))
    }

    @inline(__always)
    mutating func insert(_ page: UInt64) {
        let (word, bit) = place(page)
        bits[word] |= bit
    }

    @inline(__always)
    func mayHold(_ page: UInt64) -> Bool {
        let (word, bit) = place(page)
        return bits[word] & bit != 0
    }

    /// Of a filter of 2 and 4 MiB pages, by 2 MiB.
    @inline(__always)
    func mayHoldLarge(_ linear: UInt64) -> Bool {
        mayHold(linear >> 21) || mayHold(linear >> 21 ^ 1)
    }

    mutating func removeAll() { bits = InlineArray(repeating: 0) }
}
