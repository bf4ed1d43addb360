internal import CLinux
internal import Core
internal import Glibc

/// A queue of a tap interface. The kernel understands the header of virtio, so checksums and
/// segments that the driver has not made are made where they are needed, if at all. An interface that
/// others have opened may have frames without that header; then the device makes them.
final class TapLink: UpLink {
    private let tap: SharedFD
    private let mtu: UInt64
    private let hasSeveralQueues: Bool
    private var maximumLength: UInt64
    private var isDrained = false
    private var isGone = false
    private let scratch = ScratchPad()

    let carriesHeader: Bool
    let hasLengths = false
    let deadline: UInt64? = nil
    var isConnected: Bool { !isGone }
    var readFD: Int32 { isGone ? -1 : tap.rawValue }
    var writeFD: Int32 { readFD }

    init(_ tap: SharedFD, mtu: UInt64) {
        self.tap = tap
        self.mtu = mtu
        let kind = clinux_tap_kind(tap.rawValue)
        hasSeveralQueues = kind & CLINUX_TAP_QUEUES != 0
        carriesHeader = kind & CLINUX_TAP_HEADER != 0
        maximumLength = mtu + FrameLimit.overhead
    }

    /// The features of drivers that the host's tap interfaces have something for.
    static func features(of tap: SharedFD) -> UInt64 {
        var features =
            NetworkFeature.checksum | NetworkFeature.hostTSO4 | NetworkFeature.hostTSO6
            | NetworkFeature.hostECN
        let guest: [UInt64] = [
            NetworkFeature.guestChecksum | NetworkFeature.guestTSO4 | NetworkFeature.guestTSO6
                | NetworkFeature.guestECN,
            NetworkFeature.guestUSO4 | NetworkFeature.guestUSO6,
        ]
        if clinux_tap_offloads(tap.rawValue, offloads(guest[0])) == 0 { features |= guest[0] }
        if clinux_tap_offloads(tap.rawValue, offloads(guest[0] | guest[1])) == 0 {
            features |= guest[1] | NetworkFeature.hostUSO
        }
        _ = clinux_tap_offloads(tap.rawValue, 0)
        return features
    }

    private static func offloads(_ features: UInt64) -> UInt32 {
        let pairs: [(feature: UInt64, flag: UInt32)] = [
            (NetworkFeature.guestChecksum, CLINUX_TUN_F_CSUM),
            (NetworkFeature.guestTSO4, CLINUX_TUN_F_TSO4),
            (NetworkFeature.guestTSO6, CLINUX_TUN_F_TSO6),
            (NetworkFeature.guestECN, CLINUX_TUN_F_TSO_ECN),
            (NetworkFeature.guestUSO4, CLINUX_TUN_F_USO4),
            (NetworkFeature.guestUSO6, CLINUX_TUN_F_USO6),
        ]
        return pairs.reduce(0) { features & $1.feature != 0 ? $0 | $1.flag : $0 }
    }

    func use(features: UInt64) {
        if carriesHeader {
            _ = clinux_tap_header_size(tap.rawValue, Int32(FrameHeader.size(features: features)))
        }
        let flags = carriesHeader ? Self.offloads(features) : 0
        let code = clinux_tap_offloads(tap.rawValue, flags)
        if code != 0 {
            networkLog(.warning, "the tap interface does not take offloads \(flags)")
        }
        // More than Ethernet has only where the driver takes what belongs to several frames.
        maximumLength = flags & ~CLINUX_TUN_F_CSUM == 0 ? mtu + FrameLimit.overhead : 65550
    }

    func attach(_ isAttached: Bool) {
        // As it is already, if the kernel refuses.
        if hasSeveralQueues { _ = clinux_tap_attach(tap.rawValue, isAttached ? 1 : 0) }
    }

    func turn(isReadable: Bool) { isDrained = !isReadable }

    func hangUp() {
        networkLog(.error, "the tap interface has been removed; its guest is without a link")
        isGone = true
    }

    // MARK: Sending

    func send(_ batch: TransmitBatch) -> SendResult {
        while batch.next < batch.count {
            guard !isGone else { return .lost }
            // SAFETY: these parts are memory that the batch's chains keep mapped.
            let sent = unsafe clinux_write_parts(
                tap.rawValue, batch.parts + batch.next, Int32(batch.nextEnd - batch.next))
            if sent == -Int(EAGAIN) { return .blocked }
            // An interface that is down takes nothing, and none takes a header that is wrong.
            batch.advanceFrame()
        }
        return .done
    }

    // MARK: Receiving

    func nextFrame() -> NextFrame { isDrained || isGone ? .nothing : .room(maximumLength) }

    func receive(_ window: ReceiveWindow, headerSize: UInt64) -> ReceiveResult {
        let header = carriesHeader ? headerSize : 0
        let listed = window.list(from: headerSize - header, byteCount: header + maximumLength)
        // What does not fit ends up there.
        // SAFETY: there is room for one more part.
        unsafe (window.parts + listed.parts).initialize(to: scratch.part)
        let count = unsafe clinux_read_parts(
            tap.rawValue, window.parts, Int32(listed.parts + 1))
        guard count >= 0 else {
            isDrained = true
            if count == -Int(EBADFD) || count == -Int(EIO) {
                isGone = clinux_tap_kind(tap.rawValue) == 0
            }
            return .nothing
        }
        if UInt64(count) <= header || UInt64(count) > listed.bytes { return .tooLong }
        return .frame(UInt64(count))
    }

    func skipFrame() {}
    func forgetFrame() {}
    func keepRest(of batch: TransmitBatch) {}
}
