/// Where the blocks with translated code are, for whoever empties a region: of the blocks' arena, or
/// of the translator's. A block may be gone or have other code since; whoever looks asks again.
struct EvictionNotes {
    struct Place: BitwiseCopyable {
        /// The block's offset and region, and how often that had been emptied.
        var offset: UInt32
        var region: UInt32
        var age: UInt64
        /// The regions of other blocks in its code, a bit for each (`CodeRegions.maximumCount`).
        var others: UInt64
    }

    private var ages: [UInt64]
    /// By the region that the code is in.
    private var places: [[Place]]

    init(regions count: Int, codeRegions: Int) {
        ages = Array(repeating: 0, count: count)
        places = Array(repeating: [], count: codeRegions)
    }

    mutating func add(_ offset: UInt32, in region: Int, others: UInt64, code codeRegion: Int) {
        places[codeRegion].append(
            Place(
                offset: offset, region: UInt32(region), age: ages[region],
                others: others & ~(1 << UInt64(region))))
    }

    // No other arrays here: the runtime would make a type for each when first needed, in the middle of
    // things, and its code for that is half a megabyte.

    /// Blocks whose code is in a region of the translator's arena; they are dropped.
    mutating func take(_ codeRegion: Int) -> [Place] {
        defer { places[codeRegion] = [] }
        return places[codeRegion]
    }

    /// Calls `body` with the offsets of blocks of other regions that have blocks of this one in their
    /// code.
    func forEachTrace(with region: Int, _ body: (UInt32) -> Void) {
        for list in places {
            for place in list where place.others & 1 << UInt64(region) != 0 && isCurrent(place) {
                body(place.offset)
            }
        }
    }

    /// There is still the same block.
    func isCurrent(_ place: Place) -> Bool { ages[Int(place.region)] == place.age }

    /// A region of blocks is empty.
    mutating func age(_ region: Int) { ages[region] &+= 1 }

    mutating func removeAll() {
        for region in ages.indices { age(region) }
        for region in places.indices { places[region] = [] }
    }
}
