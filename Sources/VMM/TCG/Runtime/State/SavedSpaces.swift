/// What is known about user mode's code of address spaces that the guest may come back to.
///
/// A process-context identifier (SDM volume 3, section 4.10.1) says that translations are still right
/// when the guest comes back without asking for a flush. So what was looked up by way of them still
/// is, too, unless memory has changed or a block has moved since.
struct SavedSpaces: BitwiseCopyable {
    private struct Entry: BitwiseCopyable {
        /// CR3, with the identifier; `none` where there is nothing.
        var cr3 = SavedSpaces.none
        var view = CodeView()
    }

    private static let none = UInt64.max
    /// Linux uses six identifiers.
    private var entries = InlineArray<6, Entry>(repeating: Entry())
    /// The one that is given up next.
    private var oldest = 0
    private var isEmpty = true

    private static func identifier(_ cr3: UInt64) -> UInt64 { cr3 & 0xFFF }

    /// Keeps a view in the place of an older one of the same identifier.
    mutating func save(_ view: CodeView, _ cr3: UInt64) {
        drop(cr3)
        var place = oldest
        for index in entries.indices where entries[index].cr3 == Self.none { place = index }
        if place == oldest { oldest = (oldest + 1) % entries.count }
        entries[place] = Entry(cr3: cr3, view: view)
        isEmpty = false
    }

    /// The view of an address space, which is not kept any more.
    mutating func take(_ cr3: UInt64) -> CodeView? {
        for index in entries.indices where entries[index].cr3 == cr3 {
            entries[index].cr3 = Self.none
            return entries[index].view
        }
        return nil
    }

    /// Forgets what has the identifier of `cr3`.
    mutating func drop(_ cr3: UInt64) {
        removeAll { entry, _ in Self.identifier(entry) == Self.identifier(cr3) }
    }

    /// Forgets those that may have code on the page of a linear address.
    mutating func removeAll(at linear: UInt64) {
        removeAll { _, view in view.mayHaveCode(at: linear) }
    }

    private mutating func removeAll(where isWrong: (UInt64, CodeView) -> Bool) {
        for index in entries.indices where entries[index].cr3 != Self.none {
            if isWrong(entries[index].cr3, entries[index].view) { entries[index].cr3 = Self.none }
        }
    }

    mutating func removeAll() {
        if isEmpty { return }
        for index in entries.indices { entries[index].cr3 = Self.none }
        isEmpty = true
    }
}
