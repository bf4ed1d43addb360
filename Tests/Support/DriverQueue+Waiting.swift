public import Core
import Glibc

extension DriverQueue {
    /// Waits for the next finished request; `nil` after `timeoutMilliseconds`.
    /// - Parameter call: what the device signals when it has used something.
    public func awaitUsed(
        _ call: EventFD, timeoutMilliseconds: UInt64 = 10_000
    ) throws(DriverQueueError) -> UsedRequest? {
        let deadline = Clock.monotonic() + timeoutMilliseconds * 1_000_000
        while Clock.monotonic() < deadline {
            if let used = try popUsed() { return used }
            if enableCalls() { continue }
            var waited = pollfd(fd: call.rawValue, events: Int16(POLLIN), revents: 0)
            // SAFETY: the structure lives for the call.
            _ = unsafe poll(&waited, 1, Int32(min(timeoutMilliseconds, 1000)))
            call.drain()
        }
        return nil
    }
}
