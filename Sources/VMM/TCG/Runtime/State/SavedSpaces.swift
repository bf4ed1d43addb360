/// Something of each address space that is kept. Linux uses six identifiers.
typealias PerSpace<Value> = InlineArray<6, Value>

/// What is known about user mode's code of address spaces that the guest may come back to.
///
/// A process-context identifier (SDM volume 3, section 4.10.1) says that translations are still right
/// when the guest comes back without asking for a flush. So what was looked up by way of them still
/// is, too, unless memory has changed or a block has moved since.
///
/// An object, because it is too large to be copied wherever a part of it is read.
final class SavedSpaces {
    private var views = PerSpace<CodeView>(repeating: CodeView())
    /// CR3, with the identifier.
    private var spaces = PerSpace<UInt64>(repeating: 0)
    /// The generations that the guest may come back to, and 0 where there is none.
    private(set) var generations = GenerationSet()
    /// Those that the guest will come back to.
    private(set) var liveGenerations = GenerationSet()
    /// Which places hold something, a bit for each.
    private var used: UInt8 = 0
    /// Pages of which no space that is kept has code, by the low bits of their numbers.
    private var cleared = InlineArray<16, UInt64>(repeating: UInt64.max)
    /// The place that is given up next.
    private var oldest = 0

    private static func identifier(_ cr3: UInt64) -> UInt64 { cr3 & 0xFFF }

    /// Keeps a view in the place of an older one of the same identifier.
    func save(_ view: CodeView, _ cr3: UInt64) {
        drop(cr3)
        var place = (~used).trailingZeroBitCount
        if place >= views.count {
            place = oldest
            oldest = (oldest + 1) % views.count
            forget(place)
        }
        (views[place], spaces[place], generations[place]) = (view, cr3, view.generation)
        liveGenerations[place] = view.isLive ? view.generation : 0
        used |= 1 << UInt8(place)
        cleared = InlineArray(repeating: UInt64.max)
    }

    /// The view of an address space, which is not kept any more.
    func take(_ cr3: UInt64) -> CodeView? {
        for place in Places(used) where spaces[place] == cr3 {
            forget(place)
            return views[place]
        }
        return nil
    }

    /// Forgets what has the identifier of `cr3`.
    func drop(_ cr3: UInt64) {
        for place in Places(used) where Self.identifier(spaces[place]) == Self.identifier(cr3) {
            forget(place)
        }
    }

    /// Forgets those that may have code on the page of a linear address.
    func removeAll(at linear: UInt64) {
        let page = linear >> 12
        let index = Int(page & 15)
        if cleared[index] == page { return }
        cleared[index] = page
        for place in Places(used) where views[place].mayHaveCode(at: linear) { forget(place) }
    }

    private func forget(_ place: Int) {
        generations[place] = 0
        liveGenerations[place] = 0
        used &= ~(1 << UInt8(place))
    }

    func removeAll() {
        for place in Places(used) { forget(place) }
    }

    /// The numbers of the bits that are set.
    private struct Places: Sequence, IteratorProtocol {
        private var left: UInt8

        @inline(__always)
        init(_ bits: UInt8) { left = bits }

        @inline(__always)
        mutating func next() -> Int? {
            if left == 0 { return nil }
            defer { left &= left - 1 }
            return left.trailingZeroBitCount
        }
    }
}
