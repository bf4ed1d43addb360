/// The pages that code was fetched from in each generation, as far as there is room: a filter has a
/// bit for nearly every page once a large program runs, and each page that the guest then unmaps
/// would begin a new generation.
///
/// A place is chosen by a page's low bits, and has the last few entries: the page's other bits, 32
/// of them, and the generation. What is overwritten is the oldest one, and its generation is kept as
/// the last one of which entries have been lost. So nothing has to be emptied when a generation
/// begins, and those that are kept for address spaces that are away lose entries only to later ones.
// SAFETY: the memory is part of the CPU's block, `size` bytes, zero at first; places are masked.
@safe struct FetchedPages: BitwiseCopyable {
    private static let places = 2048
    /// Words of a place: entries, and the last generation that has lost one. A cache line.
    private static let words: UInt64 = 8

    static let size = places * Int(words) * MemoryLayout<UInt64>.stride

    private let words: UnsafeMutablePointer<UInt64>

    init(_ memory: UnsafeMutableRawPointer) {
        unsafe words = memory.assumingMemoryBound(to: UInt64.self)
    }

    func removeAll() {
        unsafe words.update(repeating: 0, count: Self.size / MemoryLayout<UInt64>.stride)
    }

    private func place(_ page: UInt64) -> UnsafeMutablePointer<UInt64> {
        unsafe words + Int(page % UInt64(Self.places) * Self.words)
    }

    /// Never 0, because no generation is.
    private static func entry(_ page: UInt64, _ generation: UInt32) -> UInt64 {
        (page / UInt64(places)) << 32 | UInt64(generation)
    }

    /// Code was fetched from the page with a number.
    func insert(_ page: UInt64, _ generation: UInt32) {
        let place = unsafe place(page)
        let entry = Self.entry(page, generation)
        let last = Int(Self.words) - 1
        var oldest = 0
        var lost = UInt32.max
        for index in 0..<last {
            let other = unsafe place[index]
            if other == entry { return }
            let age = UInt32(truncatingIfNeeded: other)
            if age < lost { (oldest, lost) = (index, age) }
        }
        unsafe place[oldest] = entry
        unsafe place[last] = max(place[last], UInt64(lost))
    }

    /// Whether code may have been fetched from it in a generation.
    func mayHold(_ page: UInt64, _ generation: UInt32) -> Bool {
        let place = unsafe place(page)
        let entry = Self.entry(page, generation)
        let last = Int(Self.words) - 1
        if unsafe UInt64(generation) <= place[last] { return true }
        for index in 0..<last where unsafe place[index] == entry { return true }
        return false
    }
}
