/// Whether a CPU that comes upon memory that is not there gets any further.
struct FaultProgress {
    /// Others may mend a page, or move its window, between a fault and the look at it.
    static let limit = 16

    private var address = UInt64.max
    private var run: UInt64 = 0
    private var count = 0

    /// Notes a fault.
    /// - Parameters:
    ///   - run: how often KVM has returned; if it has returned for something else since the last fault,
    ///     the guest got further.
    ///   - isMended: the page was not there, and is now.
    /// - Returns: whether there were too many at one address, one after the other, for no reason.
    mutating func isStuck(at address: UInt64, run: UInt64, isMended: Bool) -> Bool {
        let isRepeated = !isMended && address == self.address && run == self.run &+ 1
        count = isRepeated ? count + 1 : 0
        self.address = address
        self.run = run
        return count >= Self.limit
    }
}
