/// Where the page tables have led fetches of code to, since that was last forgotten. As long as they
/// still lead there, a flush of the TLB changes nothing for the code.
struct CodeTranslations: BitwiseCopyable {
    private struct Entry: BitwiseCopyable {
        /// The page's number; `large` is set for 2 MiB that are part of a larger page or a page of
        /// their own.
        var page: UInt64
        /// The guest-physical address.
        var physical: UInt64

        static let large: UInt64 = 1 << 63
    }

    /// Kernels have their code on large pages, and modules on a few small ones.
    private static let capacity = 64
    private var entries = InlineArray<64, Entry>(repeating: Entry(page: 0, physical: 0))
    private var count = 0
    private var isIncomplete = false

    /// - Parameter translation: the guest-physical page of 4 KiB, with `TLBFlags`.
    mutating func note(_ linear: UInt64, _ translation: UInt64) {
        if isIncomplete { return }
        let entry = Self.entry(linear, translation)
        for index in 0..<count where entries[index].page == entry.page {
            // The same page in two places: a change that has not been flushed.
            if entries[index].physical != entry.physical { isIncomplete = true }
            return
        }
        guard count < Self.capacity else {
            isIncomplete = true
            return
        }
        entries[count] = entry
        count += 1
    }

    private static func entry(_ linear: UInt64, _ translation: UInt64) -> Entry {
        if translation & (TLBFlags.large | TLBFlags.huge) == 0 {
            return Entry(page: linear >> 12, physical: translation & ~0xFFF)
        }
        let offset = linear & 0x1F_F000
        return Entry(page: linear >> 21 | Entry.large, physical: (translation & ~0xFFF) &- offset)
    }

    /// Whether `translate`, which is called with a linear address of each page and returns what
    /// `note` takes, leads to where it did.
    func allAreSame(_ translate: (UInt64) -> UInt64?) -> Bool {
        if isIncomplete { return false }
        for index in 0..<count {
            let entry = entries[index]
            let isLarge = entry.page & Entry.large != 0
            let linear = isLarge ? entry.page << 21 : entry.page << 12
            guard let now = translate(linear) else { return false }
            let found = Self.entry(linear, now)
            guard found.page == entry.page, found.physical == entry.physical else { return false }
        }
        return true
    }

    mutating func removeAll() {
        count = 0
        isIncomplete = false
    }
}
