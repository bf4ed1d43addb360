/// Nothing at the other end: what is sent is dropped.
final class NoLink: UpLink {
    let carriesHeader = false
    let hasLengths = false
    let isConnected = false
    let readFD: Int32 = -1
    let writeFD: Int32 = -1
    let deadline: UInt64? = nil

    func turn(isReadable: Bool) {}
    func hangUp() {}
    func send(_ batch: TransmitBatch) -> SendResult { .lost }
    func nextFrame() -> NextFrame { .nothing }
    func receive(_ window: ReceiveWindow, headerSize: UInt64) -> ReceiveResult { .nothing }
    func skipFrame() {}
    func forgetFrame() {}
    func keepRest(of batch: TransmitBatch) {}
}
