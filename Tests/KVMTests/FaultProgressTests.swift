@testable import KVM
import Testing

@Suite("A CPU's faults")
struct FaultProgressTests {
    /// Where a fault was, after how many returns of KVM's, and whether there was something to mend.
    private typealias Fault = (address: UInt64, run: UInt64, isMended: Bool)

    private func isStuck(_ faults: [Fault]) -> Bool {
        var progress = FaultProgress()
        return faults.reduce(false) { isStuck, fault in
            progress.isStuck(at: fault.address, run: fault.run, isMended: fault.isMended) || isStuck
        }
    }

    @Test("at one address with nothing to mend are an end, after some")
    func endless() {
        #expect(!isStuck((0..<16).map { (0x1000, $0, false) }))
        #expect(isStuck((0..<17).map { (0x1000, $0, false) }))
    }

    @Test("are none if the guest gets further meanwhile")
    func progress() {
        #expect(!isStuck((0..<1000).map { (0x1000, 2 * $0, false) }))
        #expect(!isStuck((0..<1000).map { (0x1000, $0, true) }))
        #expect(!isStuck((0..<1000).map { (0x1000 * ($0 % 2), $0, false) }))
        #expect(!isStuck((0..<1000).map { (0x1000, $0, $0 % 16 == 0) }))
    }
}
