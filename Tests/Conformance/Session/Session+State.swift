import Core
import Glibc
import TestSupport

// A back end's state, for the one that takes its place.
extension Session {
    /// Has the back end write the device's state into a pipe. All rings are stopped.
    func saveState() throws -> [UInt8] {
        let state = try beginTransfer(direction: 0)
        defer { close(state) }
        var bytes: [UInt8] = []
        var part = [UInt8](repeating: 0, count: 65536)
        while true {
            // SAFETY: the buffer lives for the call.
            let count = unsafe read(state, &part, part.count)
            guard count > 0 else { break }
            bytes += part.prefix(count)
        }
        try checkState()
        return bytes
    }

    /// Has the back end read what another one has written.
    func loadState(_ bytes: [UInt8]) throws {
        let state = try beginTransfer(direction: 1)
        var done = 0
        while done < bytes.count {
            // SAFETY: the buffer lives for the call.
            let count = unsafe bytes[done...].withUnsafeBytes { buffer in
                unsafe write(state, buffer.baseAddress, buffer.count)
            }
            guard count > 0 else { break }
            done += count
        }
        close(state)
        try checkState()
    }

    /// - Returns: our end of the pipe.
    private func beginTransfer(direction: UInt32) throws -> Int32 {
        var ends: [Int32] = [-1, -1]
        // SAFETY: the array has room for both descriptors.
        guard unsafe pipe(&ends) == 0 else { throw SystemError("pipe", errno: errno) }
        let isSaving = direction == 0
        do {
            let far = SharedFD(owning: isSaving ? ends[1] : ends[0])
            try client.send(.setDeviceState, littleEndian(direction, 0), fds: [far])
        }
        let answer = VhostUserClient.value(
            try client.reply(to: .setDeviceState).payload, 0, UInt64.self)
        guard answer == 0x100 else {
            throw Failure("SET_DEVICE_STATE_FD is answered with \(answer), not 256")
        }
        return isSaving ? ends[0] : ends[1]
    }

    private func checkState() throws {
        let answer = VhostUserClient.value(
            try client.send(.checkDeviceState, hasReply: true), 0, UInt64.self)
        guard answer == 0 else { throw Failure("CHECK_DEVICE_STATE says \(answer)") }
    }
}
