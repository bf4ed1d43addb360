internal import Core

// Where the parts of a ring lie.
extension BackendSession {
    func checkLog(
        _ log: DirtyLog, _ address: VringAddress, size: UInt16
    ) throws(ProtocolError) {
        if let memory = memoryTable.memory, !log.covers(memory) {
            throw ProtocolError("SET_LOG_BASE", "log size", "the log does not cover memory")
        }
        guard
            isPacked || iotlb != nil || address.flags & VringAddress.logFlag == 0
                || log.covers(GuestAddress(address.log), count: sizes(size).device)
        else {
            throw ProtocolError("SET_VRING_ADDR", "log", "the used ring is outside the log")
        }
    }

    /// Whether the ring's parts are known behind the IOMMU; asks for what is missing.
    func isTranslated(_ queue: BackendQueue) -> Bool {
        guard let iotlb, queue.isStarted, queue.isEnabled, let address = queue.address,
            memoryTable.memory != nil
        else { return true }
        for part in parts(address, size: queue.size) {
            let missing = iotlb.firstUnknown(part.address, count: part.count, part.access)
            guard let missing else { continue }
            // All that comes from the front end leads here again.
            if queue.missing != missing { iotlb.ask(missing, part.access) }
            queue.missing = missing
            return false
        }
        queue.missing = nil
        return true
    }

    /// The parts of a ring, and what the device does there.
    private func parts(
        _ address: VringAddress, size: UInt16
    ) -> [(address: UInt64, count: UInt64, access: IOTLB.Access)] {
        let sizes = sizes(size)
        return [
            // Used descriptors of a packed ring are written over the others.
            (address.descriptors, sizes.descriptors, isPacked ? [.read, .write] : .read),
            (address.available, sizes.driver, .read),
            (address.used, sizes.device, [.read, .write]),
        ]
    }

    /// Whether a part of the ring overlaps the range.
    func uses(_ queue: BackendQueue, _ start: UInt64, _ size: UInt64) -> Bool {
        guard let address = queue.address, size > 0 else { return false }
        return parts(address, size: queue.size).contains {
            $0.address <= start &+ (size &- 1) && start <= $0.address &+ ($0.count &- 1)
        }
    }

    /// The bytes that the three parts of a ring take up (VIRTIO 1.3, sections 2.7 and 2.8).
    private func sizes(
        _ size: UInt16
    ) -> (descriptors: UInt64, driver: UInt64, device: UInt64) {
        let count = UInt64(size)
        if isPacked { return (16 * count, 4, 4) }
        let event: UInt64 = (features ?? 0) & VirtioFeature.eventIndex != 0 ? 2 : 0
        return (16 * count, 4 + 2 * count + event, 4 + 8 * count + event)
    }

    /// The ring's parts by guest address; each must be in one region as a whole.
    func layout(
        _ address: VringAddress, size: UInt16, message: String
    ) throws(ProtocolError) -> QueueLayout {
        let sizes = sizes(size)
        func translate(
            _ field: String, _ userAddress: UInt64, _ count: UInt64
        ) throws(ProtocolError) -> GuestAddress {
            let result =
                if let iotlb {
                    iotlb.translate(userAddress, count: count, .read)
                } else {
                    memoryTable.translate(userAddress, count: count)
                }
            guard let result else {
                throw ProtocolError(
                    message, field,
                    "\(count) bytes at user address 0x\(String(userAddress, radix: 16)) are not "
                        + "in one memory region")
            }
            return result
        }
        return QueueLayout(
            size: size,
            descriptors: try translate("descriptor", address.descriptors, sizes.descriptors),
            driver: try translate("available", address.available, sizes.driver),
            device: try translate("used", address.used, sizes.device))
    }
}
