internal import Core

// The device's state, for another process that is to go on with it.
extension BackendSession {
    /// No descriptor comes with the answer: the front end's is used.
    private static let usesGivenDescriptor: UInt64 = 0x100

    func beginTransfer(_ wanted: DeviceStateTransfer, _ fd: SharedFD) -> Reply {
        transfer = nil
        do {
            try checkStopped()
            transfer = try wanted.direction == 0 ? save(to: fd) : load(from: fd)
            return Reply(payload: .u64(Self.usesGivenDescriptor))
        } catch {
            BackendServer.log.guest("the device's state cannot be transferred: \(error)")
            return Reply(payload: .u64(Self.usesGivenDescriptor | 1))
        }
    }

    private func checkStopped() throws(VirtioDeviceError) {
        guard !queues.contains(where: { $0.isRunning || $0.isStarted }) else {
            throw VirtioDeviceError("not all queues are stopped")
        }
    }

    private func save(to fd: SharedFD) throws -> StateTransfer {
        let contents = try device.saveState()
        guard contents.count <= DeviceStateImage.maximumContents else {
            throw VirtioDeviceError("it has \(contents.count) bytes")
        }
        let image = DeviceStateImage(deviceID: device.deviceID, contents: contents)
        return try StateTransfer(saving: image.bytes, to: fd, on: loop)
    }

    private func load(from fd: SharedFD) throws -> StateTransfer {
        try StateTransfer(loadingFrom: fd, on: loop) { [unowned self] bytes in
            do {
                let image = try DeviceStateImage(bytes)
                // A front end may have started queues since.
                try checkStopped()
                guard image.deviceID == device.deviceID else {
                    throw VirtioDeviceError("it is that of a device of another type")
                }
                try device.loadState(image.contents)
                return true
            } catch {
                BackendServer.log.guest("a device's state cannot be used: \(error)")
                return false
            }
        }
    }

    /// Says whether the transfer has come to a good end.
    func checkTransfer() -> Reply {
        defer { transfer = nil }
        return Reply(payload: .u64(transfer?.finish() == true ? 0 : 1))
    }
}
