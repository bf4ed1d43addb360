/// What is mapped where in a window: pieces in the order of their places, which do not overlap.
struct WindowPieces {
    fileprivate struct Piece {
        var start: UInt64
        var end: UInt64
    }

    /// What comes of a change of a range.
    struct Change {
        fileprivate var replaced: Range<Int>
        fileprivate var new: [Piece]
        /// How many pieces there are then, and how many mappings of the process it takes to have them.
        let pieces: Int
        let mappings: Int
        /// All that is empty around the range, if the range is to be empty.
        let emptied: Range<UInt64>
    }

    private let size: UInt64
    private var pieces: [Piece] = []
    /// Pieces, and what is between them.
    private var mappings = 1

    init(size: UInt64) { self.size = size }

    var count: Int { pieces.count }

    /// What it would be to replace a range, which is not empty and lies inside.
    func replacing(_ start: UInt64, _ size: UInt64, isMapped: Bool) -> Change {
        let end = start + size
        let first = pieces.prefixCount { $0.end <= start }
        let range = first..<max(first, pieces.prefixCount { $0.start < end })
        var new: [Piece] = []
        if let first = range.first, pieces[first].start < start {
            new.append(Piece(start: pieces[first].start, end: start))
        }
        if isMapped { new.append(Piece(start: start, end: end)) }
        if let last = range.last, pieces[last].end > end {
            new.append(Piece(start: end, end: pieces[last].end))
        }
        let lower = range.lowerBound > 0 ? pieces[range.lowerBound - 1].end : 0
        let upper = range.upperBound < count ? pieces[range.upperBound].start : self.size
        let old = Self.mappings(pieces[range], lower..<upper)
        let emptyFrom = new.last { $0.end <= start }?.end ?? lower
        let emptyTo = new.first { $0.start >= end }?.start ?? upper
        return Change(
            replaced: range, new: new, pieces: count - range.count + new.count,
            mappings: mappings - old + Self.mappings(new[...], lower..<upper),
            emptied: emptyFrom..<emptyTo)
    }

    mutating func apply(_ change: Change) {
        pieces.replaceSubrange(change.replaced, with: change.new)
        mappings = change.mappings
    }

    /// How many mappings there are between two places: these pieces, and what is empty.
    private static func mappings(_ pieces: ArraySlice<Piece>, _ place: Range<UInt64>) -> Int {
        var count = pieces.count
        var end = place.lowerBound
        for piece in pieces {
            if piece.start > end { count += 1 }
            end = piece.end
        }
        return place.upperBound > end ? count + 1 : count
    }
}
