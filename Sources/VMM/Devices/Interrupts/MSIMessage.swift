/// A message-signalled interrupt: a write of `data` to `address` (SDM volume 3, section 11.11).
package struct MSIMessage: Equatable, Sendable {
    package var address: UInt64
    package var data: UInt32

    package init(address: UInt64, data: UInt32) {
        self.address = address
        self.data = data
    }

    /// Whether the address is one of the CPUs'. Elsewhere a message is a write that nobody awaits.
    package var isInterrupt: Bool { address >> 20 == 0xFEE }
}
