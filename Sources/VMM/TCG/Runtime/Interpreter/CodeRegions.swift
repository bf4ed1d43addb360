/// The regions of an arena for code. They are filled one after the other, each from its bottom; when
/// all are full the first one is emptied, and filled again. So what goes when room is wanted is
/// what has been there for the longest time, and it is little at a time.
struct CodeRegions {
    private let start: Int
    /// Bytes of each, a multiple of 64.
    let size: Int
    /// The end of what is used in each, but for the current one.
    private var ends: [Int]
    /// The one that is being filled, and from where on it is free.
    private(set) var current = 0
    private(set) var position: Int
    /// The current region's end.
    private(set) var limit: Int

    /// How many there are for so many bytes of decoded blocks: enough that nobody notices when one is
    /// emptied, and none too small.
    static func count(for size: Int) -> Int { min(max(size >> 19, 16), maximumCount) }

    static let maximumCount = 64

    init(_ room: Range<Int>, count: Int) {
        start = (room.lowerBound + 63) & ~63
        size = max(0, room.upperBound - start) / count & ~63
        position = start
        limit = start + size
        ends = (0..<count).map { [start, size] in start + $0 * size }
    }

    var count: Int { ends.count }
    var free: Int { limit - position }

    /// Everything below `end` is used now.
    mutating func use(upTo end: Int) { position = min(limit, end) }

    /// Which one a place is in.
    func region(of place: Int) -> Int { min(max(0, place - start) / max(1, size), count - 1) }

    /// What is used of a region.
    func used(_ region: Int) -> Range<Int> {
        let first = start + region * size
        return first..<(region == current ? position : ends[region])
    }

    /// Bytes that are used in all of them.
    var used: Int { (0..<count).reduce(0) { $0 + used($1).count } }

    /// The one that is filled when the current one is full.
    var next: Int { current + 1 < count ? current + 1 : 0 }

    /// Goes on with the next one, of which nothing is used any more.
    mutating func advance() {
        ends[current] = position
        current = next
        position = start + current * size
        limit = position + size
    }

    mutating func removeAll() { self = CodeRegions(start..<start + size * count, count: count) }
}
