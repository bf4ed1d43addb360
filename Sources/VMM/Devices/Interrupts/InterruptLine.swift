internal import Synchronization

/// A wire from a device to a pin of the I/O APIC.
///
/// A device sets the level while it holds its own lock, so that levels come in order, and calls
/// `deliver` when the lock is gone: delivery ends in the interrupt controller of a vCPU, and no
/// lock may be held while calling out. A pulse between two deliveries is not lost: the wire
/// counts its rising edges.
package final class InterruptLine: Sendable {
    private let ioapic: IOAPIC
    private let pin: Int
    /// Bit 0: the level; above: rising edges so far.
    private let state = Atomic<UInt32>(0)

    package init(_ ioapic: IOAPIC, pin: Int) {
        self.ioapic = ioapic
        self.pin = pin
    }

    /// Sets the level. Calls must not overlap.
    /// - Returns: whether `deliver` must be called.
    func set(_ isAsserted: Bool) -> Bool {
        let old = state.load(ordering: .relaxed)
        guard (old & 1 != 0) != isAsserted else { return false }
        state.store(isAsserted ? (old &+ 2) | 1 : old & ~1, ordering: .releasing)
        return true
    }

    /// Tells the I/O APIC what has changed.
    func deliver() { ioapic.update(pin: pin, line: self) }

    /// The level and the number of rising edges.
    var snapshot: (isAsserted: Bool, edges: UInt32) {
        let value = state.load(ordering: .acquiring)
        return (value & 1 != 0, value >> 1)
    }
}
