internal import Core

// Rings and buffers behind an IOMMU: the front end translates, the back end asks (vhost-user
// specification, "IOMMU support").
extension BackendSession {
    func makeIOTLB() -> IOTLB {
        let (loop, weak) = (loop, WeakSession(self))
        return IOTLB { address, access in
            // The channel belongs to the loop's thread.
            loop.post { weak.session?.ask(address, access) }
        }
    }

    /// Once no ring runs, whoever uses the device next has other addresses; front ends do not say so.
    func forgetTranslations() {
        if queues.contains(where: { $0.isRunning }) { return }
        iotlb?.removeAll()
        for queue in queues { queue.missing = nil }
    }

    private func ask(_ address: UInt64, _ access: IOTLB.Access) {
        tell(
            .iotlbMsg,
            .iotlb(
                IOTLBMessage(
                    iova: address, size: 0, userAddress: 0, permissions: access.rawValue,
                    type: IOTLBMessage.miss)))
    }

    func changeTranslation(_ message: IOTLBMessage) throws(ProtocolError) {
        guard let iotlb else { return }
        let range = message.iova.addingReportingOverflow(message.size &- 1)
        guard message.size > 0, !range.overflow else {
            throw ProtocolError("IOTLB_MSG", "iotlb size", "\(message.size) bytes are no range")
        }
        switch message.type {
        case IOTLBMessage.update:
            guard let guest = memoryTable.translate(message.userAddress, count: message.size) else {
                throw ProtocolError("IOTLB_MSG", "user address", "it is not in one memory region")
            }
            iotlb.add(
                IOTLB.Entry(
                    start: message.iova, size: message.size, guest: guest.rawValue,
                    access: IOTLB.Access(rawValue: message.permissions)))
        case IOTLBMessage.invalidate:
            iotlb.remove(start: message.iova, size: message.size)
            for queue in queues { queue.missing = nil }
            for queue in queues where queue.isRunning && uses(queue, message.iova, message.size) {
                stopDevice(queue)
            }
        default:
            throw ProtocolError("IOTLB_MSG", "type", "\(message.type) is not for back ends")
        }
        for queue in queues { update(queue) }
    }
}

/// What may be gone when it is asked for.
// SAFETY: used on the loop's thread only, which is the session's.
private final class WeakSession: @unchecked Sendable {
    weak var session: BackendSession?

    init(_ session: BackendSession) { self.session = session }
}
