package import Accelerator

/// Something that answers accesses to a range of ports or of physical addresses.
///
/// Both functions run on vCPU threads, several at a time; a device protects its own state. What
/// the guest writes must never trap.
package protocol BusDevice: AnyObject, Sendable {
    /// Reads `size` (1, 2, 4 or 8) bytes at `offset` from the start of the device's range. The
    /// access lies inside the range.
    func read(offset: UInt64, size: Int) -> UInt64

    /// Writes the low `size` bytes of `value`. The effect is for the machine, which sees to it
    /// when the device's locks are gone.
    func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect
}

/// The value with the low `size` bytes set: what an access that nobody answers reads.
func allOnes(_ size: Int) -> UInt64 { size >= 8 ? .max : (1 << (UInt64(size) * 8)) - 1 }
