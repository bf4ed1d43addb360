import Testing

@testable import TCG

/// Pages that code was fetched from.
@Suite("Pages that code was fetched from")
struct FetchedPagesTests {
    /// Memory as a new CPU's, for the length of `body`.
    private func withPages(_ body: (FetchedPages) -> Void) {
        let memory = UnsafeMutableRawPointer.allocate(
            byteCount: FetchedPages.size, alignment: 64)
        defer { unsafe memory.deallocate() }
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: FetchedPages.size)
        unsafe body(FetchedPages(memory))
    }

    @Test("pages are known in the generation in which they were noted")
    func known() {
        withPages { pages in
            for page: UInt64 in [0, 1, 0x400, 0x7_FFFF_FFFF, 0x1F_FFFF_FFFF_FFFF] {
                #expect(!pages.mayHold(page, 5))
                pages.insert(page, 5)
                #expect(pages.mayHold(page, 5))
                #expect(!pages.mayHold(page, 4))
                #expect(!pages.mayHold(page, 6))
                #expect(!pages.mayHold(page ^ 0x800, 5), "at the same place")
            }
        }
    }

    @Test("where there is no room, nothing is claimed that is not known")
    func lost() {
        withPages { pages in
            // At one place, which has room for seven: two in generation 3, five in 7, one in 9.
            for number: UInt64 in 0..<2 { pages.insert(number << 11, 3) }
            for number: UInt64 in 2..<7 { pages.insert(number << 11, 7) }
            #expect(!pages.mayHold(100 << 11, 3))
            pages.insert(7 << 11, 9)
            #expect(pages.mayHold(100 << 11, 3), "one of 3 is not there any more")
            #expect(pages.mayHold(0, 3) && pages.mayHold(1 << 11, 3))
            #expect(!pages.mayHold(100 << 11, 7) && !pages.mayHold(100 << 11, 9))
            #expect(pages.mayHold(2 << 11, 7) && pages.mayHold(7 << 11, 9))
            // An older one comes back: it goes first.
            pages.insert(8 << 11, 4)
            #expect(pages.mayHold(8 << 11, 4) && !pages.mayHold(100 << 11, 7))
            for number: UInt64 in 20..<30 { pages.insert(number << 11, 9) }
            for number: UInt64 in 20..<30 { #expect(pages.mayHold(number << 11, 9)) }
            #expect(pages.mayHold(100 << 11, 9) && pages.mayHold(2 << 11, 7))
            #expect(!pages.mayHold(100 << 11, 10))
        }
    }
}
