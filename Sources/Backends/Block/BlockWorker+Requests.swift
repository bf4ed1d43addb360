internal import CLinux
internal import Core
internal import Glibc

// How a request begins: its header is copied out once, checked, and becomes the first operation.
extension BlockWorker {
    /// Starts a request that was taken from the ring. It is given back at once if it needs no I/O
    /// or makes no sense.
    func begin(_ slot: UInt32) {
        let chain = slots[slot].chain
        guard chain.writableLength > 0 else {
            Self.log.guest("a request has no room for its status")
            return give(back: slot, written: 0)
        }
        guard chain.isWhole else {
            Self.log.guest("a request has buffers outside the guest's memory")
            return finish(slot, .ioError)
        }
        guard let type = chain.read(at: 0, as: UInt32.self),
            let sector = chain.read(at: 8, as: UInt64.self)
        else {
            Self.log.guest("a request of \(chain.readableLength) bytes has no complete header")
            return finish(slot, .ioError)
        }
        switch UInt32(littleEndian: type) {
        case BlockRequestType.read: beginRead(slot, sector: UInt64(littleEndian: sector))
        case BlockRequestType.write: beginWrite(slot, sector: UInt64(littleEndian: sector))
        case BlockRequestType.flush: beginFlush(slot)
        case BlockRequestType.identify: identify(slot)
        case BlockRequestType.discard where features & BlockFeature.discard != 0:
            beginRanges(slot, .discard)
        case BlockRequestType.writeZeroes where features & BlockFeature.writeZeroes != 0:
            beginRanges(slot, .zero)
        default: finish(slot, .unsupported)
        }
    }

    private func beginRead(_ slot: UInt32, sector: UInt64) {
        let chain = slots[slot].chain
        let length = chain.writableLength &- 1
        guard let offset = byteOffset(sector: sector, length: length) else {
            return finish(slot, .ioError)
        }
        chain.trimWritable(last: 1)
        begin(slot, .read, offset: offset, length: length)
    }

    private func beginWrite(_ slot: UInt32, sector: UInt64) {
        let chain = slots[slot].chain
        let header = UInt64(BlockLimits.headerSize)
        let length = chain.readableLength &- header
        guard !image.isReadOnly, let offset = byteOffset(sector: sector, length: length) else {
            return finish(slot, .ioError)
        }
        chain.trimReadable(first: header)
        begin(slot, .write, offset: offset, length: length)
    }

    /// Where a transfer begins, if it consists of whole sectors inside the disk.
    private func byteOffset(sector: UInt64, length: UInt64) -> UInt64? {
        let sectors = image.size >> BlockLimits.sectorShift
        guard length & ((1 << BlockLimits.sectorShift) - 1) == 0, sector <= sectors,
            length >> BlockLimits.sectorShift <= sectors - sector
        else { return nil }
        return sector << BlockLimits.sectorShift
    }

    /// Starts a transfer between the image and the driver's buffers.
    private func begin(
        _ slot: UInt32, _ phase: RequestSlot.Phase, offset: UInt64, length: UInt64
    ) {
        guard length > 0 else { return finish(slot, .ok) }
        let chain = slots[slot].chain
        let parts = unsafe phase == .read ? chain.writable : chain.readable
        slots[slot].phase = phase
        slots[slot].offset = offset
        slots[slot].remaining = length
        unsafe slots[slot].parts = parts.baseAddress
        slots[slot].partCount = Int32(truncatingIfNeeded: parts.count)
        slots[slot].isCached = image.isDirect && !isFitForDirectIO(slots[slot])
        submitTransfer(slot)
    }

    private func isFitForDirectIO(_ slot: RequestSlot) -> Bool {
        image.isAligned(offset: slot.offset, count: slot.remaining)
            && slot.isAligned(memory: image.memoryAlignment, offset: image.offsetAlignment)
    }

    private func beginFlush(_ slot: UInt32) {
        // Nothing can be unsaved in an image that is never written to.
        if image.isReadOnly { return finish(slot, .ok) }
        slots[slot].phase = .flush
        submit(IOOperation(kind: .sync), slot)
    }

    private func identify(_ slot: UInt32) {
        let chain = slots[slot].chain
        let room = min(chain.writableLength &- 1, UInt64(shared.serial.count))
        // SAFETY: the array's bytes are used only during the call.
        unsafe shared.serial.withUnsafeBytes { bytes in
            _ = unsafe chain.write(
                at: 0, from: UnsafeRawBufferPointer(rebasing: bytes[..<Int(room)]))
        }
        finish(slot, .ok)
    }

    /// Starts a request that names ranges instead of carrying data.
    private func beginRanges(_ slot: UInt32, _ phase: RequestSlot.Phase) {
        let status = readRanges(slot, phase)
        guard status == .ok else { return finish(slot, status) }
        slots[slot].phase = phase
        slots[slot].range = 0
        slots[slot].isCached = false
        submitRange(slot)
    }

    /// Copies the ranges out of the request and checks them all before any takes effect (VIRTIO
    /// 1.3, section 5.2.6.2).
    private func readRanges(_ slot: UInt32, _ phase: RequestSlot.Phase) -> BlockStatus {
        let chain = slots[slot].chain
        let size = UInt64(BlockLimits.rangeSize)
        let length = chain.readableLength &- UInt64(BlockLimits.headerSize)
        guard !image.isReadOnly, length > 0, length % size == 0,
            length / size <= UInt64(BlockLimits.ranges)
        else { return .ioError }
        let count = UInt32(length / size)
        slots[slot].rangeCount = count
        for i in 0..<UInt64(count) {
            let place = UInt64(BlockLimits.headerSize) &+ i &* size
            guard let sector = chain.read(at: place, as: UInt64.self),
                let sectors = chain.read(at: place &+ 8, as: UInt32.self),
                let flags = chain.read(at: place &+ 12, as: UInt32.self)
            else { return .ioError }
            let known = phase == .zero ? BlockLimits.unmapFlag : 0
            guard UInt32(littleEndian: flags) & ~known == 0 else { return .unsupported }
            let bytes = UInt64(UInt32(littleEndian: sectors)) << BlockLimits.sectorShift
            guard UInt32(littleEndian: sectors) <= BlockLimits.rangeSectors,
                let offset = byteOffset(sector: UInt64(littleEndian: sector), length: bytes)
            else { return .ioError }
            unsafe slots[slot].ranges[Int(i)] = BlockRange(
                offset: offset, length: bytes, mayUnmap: flags != 0)
        }
        return .ok
    }
}
