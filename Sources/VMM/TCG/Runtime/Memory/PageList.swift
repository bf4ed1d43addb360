/// A few guest-physical pages, or all of them once there are too many.
struct PageList: BitwiseCopyable {
    private static let capacity = 16

    private var pages = InlineArray<16, UInt64>(repeating: 0)
    private var count = 0

    var isEmpty: Bool { count == 0 }
    private var isFull: Bool { count > Self.capacity }

    /// - Parameter page: a page's number.
    mutating func insert(_ page: UInt64) {
        if contains(page) { return }
        if count < Self.capacity { pages[count] = page }
        count += 1
    }

    func contains(_ page: UInt64) -> Bool {
        if isFull { return true }
        for place in 0..<count where pages[place] == page { return true }
        return false
    }
}
