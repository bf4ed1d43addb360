internal import Accelerator
internal import Core

// Accesses to physical addresses that are not memory: the local APIC's page, and the machine's bus
// for everything else. Devices see aligned accesses of 1, 2, 4 or 8 bytes; others are split.

extension CPU {
    /// The object that owns this CPU.
    var owner: TCGVCPU {
        // SAFETY: the owner outlives its state.
        unsafe Unmanaged<TCGVCPU>.fromOpaque(state.pointee.owner).takeUnretainedValue()
    }

    /// Makes the loop call `serviceInterrupts` at the next block border. Own thread only.
    @inline(__always)
    func requestService() { fields.exitRequest = 1 }

    func loadDevice(_ physical: UInt64, size: Int) -> UInt64 {
        if isDeviceOutOfReach { return 0 }
        var value: UInt64 = 0
        var done = 0
        while done < size {
            let address = physical &+ UInt64(done)
            let piece = alignedPiece(address, left: size - done)
            value |= loadAligned(address, size: piece) << UInt64(8 * done)
            done += piece
        }
        return value
    }

    func storeDevice(_ physical: UInt64, size: Int, _ value: UInt64) {
        if isDeviceOutOfReach { return }
        var done = 0
        while done < size {
            let address = physical &+ UInt64(done)
            let piece = alignedPiece(address, left: size - done)
            storeAligned(address, size: piece, value >> UInt64(8 * done))
            done += piece
        }
    }

    /// The largest aligned power of two from `address` that fits into `left` bytes.
    private func alignedPiece(_ address: UInt64, left: Int) -> Int {
        var size = 8
        while size > left || address & UInt64(size - 1) != 0 { size >>= 1 }
        return size
    }

    private func mask(_ size: Int) -> UInt64 { UInt64.max >> UInt64(64 - 8 * size) }

    private func loadAligned(_ physical: UInt64, size: Int) -> UInt64 {
        if physical & ~0xFFF == fields.apicPage {
            return readAPICPage(UInt32(physical & 0xFFF), size: size)
        }
        // A region may start or end inside a page.
        if let host = unsafe physicalHost(physical, count: UInt64(size)) {
            // SAFETY: the range is guest memory.
            var value: UInt64 = 0
            for index in 0..<size {
                unsafe value |= UInt64((host + index).load(as: UInt8.self)) << UInt64(8 * index)
            }
            return value
        }
        return owner.core.surface.readMMIO(GuestAddress(physical), size: size) & mask(size)
    }

    private func storeAligned(_ physical: UInt64, size: Int, _ value: UInt64) {
        let value = value & mask(size)
        if physical & ~0xFFF == fields.apicPage {
            return writeAPICPage(UInt32(physical & 0xFFF), size: size, value)
        }
        if let host = unsafe physicalHost(physical, count: UInt64(size)) {
            // SAFETY: the range is guest memory.
            for index in 0..<size {
                unsafe (host + index).storeBytes(
                    of: UInt8(truncatingIfNeeded: value >> UInt64(8 * index)), as: UInt8.self)
            }
            return
        }
        note(owner.core.surface.writeMMIO(GuestAddress(physical), size: size, value))
        // A device may have been told to write to memory that holds code.
        flushLocalCodeLookups()
    }

    /// Keeps what must happen to the machine until `run` returns it.
    func note(_ effect: MachineEffect) {
        if effect == .none { return }
        fields.pendingEffect = effect.rawValue
        requestService()
    }
}
