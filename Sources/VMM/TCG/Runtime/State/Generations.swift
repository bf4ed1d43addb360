/// Generations of a few address spaces that have a block at the same address: those of programs that
/// are not moved, and of processes that have just been forked.
struct OtherGenerations: BitwiseCopyable {
    private var first: UInt32 = 0
    private var second: UInt32 = 0
    private var third: UInt32 = 0

    @inline(__always)
    func contains(_ generation: UInt32) -> Bool {
        first == generation || second == generation || third == generation
    }

    func contains(where isRight: (UInt32) -> Bool) -> Bool {
        isRight(first) || isRight(second) || isRight(third)
    }

    mutating func insert(_ generation: UInt32) {
        (third, second, first) = (second, first, generation)
    }

    /// Makes room in the place of a generation that is among them.
    mutating func remove(_ generation: UInt32) {
        if first == generation { (first, second, third) = (second, third, 0) }
        if second == generation { (second, third) = (third, 0) }
        if third == generation { third = 0 }
    }

    mutating func removeAll() { self = OtherGenerations() }
}

/// Generations of the address spaces that are kept (`SavedSpaces`), 0 where there is none.
struct GenerationSet: BitwiseCopyable {
    private var values = PerSpace<UInt32>(repeating: 0)

    subscript(index: Int) -> UInt32 {
        get { values[index] }
        set { values[index] = newValue }
    }

    var isEmpty: Bool {
        var all: UInt32 = 0
        for index in values.indices { all |= values[index] }
        return all == 0
    }

    /// 0, which stands for no generation wherever one is kept, is never among them.
    @inline(__always)
    func contains(_ generation: UInt32) -> Bool {
        var isFound = false
        for index in values.indices { isFound = isFound || values[index] == generation }
        return isFound && generation != 0
    }
}
