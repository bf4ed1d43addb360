internal import Core

// The device's state on its way from one back end to another.
extension FrontendLink {
    /// Lets the back end give the device's state to another one. All queues are stopped.
    func saveState() throws(LinkError) -> [UInt8] {
        let near = try beginTransfer(direction: 0)
        let deadline = Clock.monotonic() &+ timeout
        var bytes: [UInt8] = []
        while true {
            do {
                if let part = try near.receive(upTo: 64 << 10) {
                    if part.bytes.isEmpty { break }
                    bytes += part.bytes
                }
            } catch {
                throw .broken(.system(error))
            }
            let now = Clock.monotonic()
            guard now < deadline, bytes.count <= DeviceStateImage.maximumSize else {
                throw .broken(.timedOut("SET_DEVICE_STATE_FD"))
            }
            _ = near.waitReadable(
                timeoutMilliseconds: Int32(clamping: (deadline - now) / 1_000_000))
        }
        try checkState()
        return bytes
    }

    /// Gives the back end what `saveState` of another one gave.
    func loadState(_ bytes: [UInt8]) throws(LinkError) {
        let near = try beginTransfer(direction: 1)
        do {
            try near.send(bytes, timeoutMilliseconds: timeout / 1_000_000)
        } catch {
            throw .broken(.system(error))
        }
        near.finishSending()
        try checkState()
    }

    private func beginTransfer(direction: UInt32) throws(LinkError) -> UnixSocket {
        let (near, far) = try Self.pair()
        let reply = try query(
            .setDeviceStateFD, .deviceState(.init(direction: direction, phase: 0)), fds: [far.fd])
        guard case .u64(let result) = reply.payload, result & 0xff == 0 else {
            throw .refused("SET_DEVICE_STATE_FD")
        }
        // A back end may insist on a channel of its own.
        guard result & 0x100 == 0, let fd = reply.fds.first else { return near }
        do {
            return try UnixSocket(adopting: fd)
        } catch {
            throw .broken(.system(error))
        }
    }

    private func checkState() throws(LinkError) {
        guard try queryNumber(.checkDeviceState) == 0 else { throw .refused("CHECK_DEVICE_STATE") }
    }
}
