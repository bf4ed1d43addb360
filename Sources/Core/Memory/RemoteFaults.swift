internal import CLinux
internal import Glibc

/// Parts of this process's memory whose pages another process brings: who touches one that is not
/// there waits for it (userfaultfd(2)).
///
/// The other process can do more than that. The descriptor lets it fill any page of this process's
/// memory that is not there yet, so it must be one that may do what this one may.
package final class RemoteFaults: Sendable {
    private let ranges: Ranges
    private let end: EventFD
    private let watch: Thread

    /// The parts, of which the watching thread knows as well.
    private final class Ranges: Sendable {
        let fd: SharedFD
        private let state = Lock((parts: [(start: UInt, length: UInt64)](), isOver: false))

        init(_ fd: SharedFD) { self.fd = fd }

        func add(_ start: UInt, _ length: UInt64) -> Int32 {
            state.withLock { state in
                if state.isOver { return -ESRCH }
                let code = clinux_userfault_register(fd.rawValue, start, length)
                guard code == 0 else { return code }
                // What was where memory is mapped now has gone.
                state.parts.removeAll { part in
                    part.start &- start < UInt(length) || start &- part.start < UInt(part.length)
                }
                state.parts.append((start, length))
                return code
            }
        }

        func stop() {
            state.withLock { state in
                state.isOver = true
                for (start, length) in state.parts {
                    _ = clinux_userfault_unregister(fd.rawValue, start, length)
                }
                state.parts = []
            }
        }
    }

    /// For the process that brings the pages.
    package var fd: SharedFD { ranges.fd }

    /// The ioctl requests of all this, for filters.
    package static var requests: [Int] {
        // SAFETY: a constant array of that many.
        unsafe withUnsafeBytes(of: clinux_userfault_requests) { bytes in
            unsafe Array(bytes.bindMemory(to: UInt32.self)).map { Int($0) }
        }
    }

    /// Opens what new objects are made by, which programs cannot do from a sandbox.
    package static func openDevice() throws(SystemError) -> SharedFD {
        // SAFETY: the path lives for the call.
        let raw = unsafe clinux_open("/dev/userfaultfd", O_RDWR | O_CLOEXEC, 0)
        return SharedFD(owning: try checking("open", raw))
    }

    /// - Parameters:
    ///   - device: see `openDevice`.
    ///   - owner: connected to the other process. When that one leaves, nobody waits any more, and
    ///     pages that have not come are zeroes.
    package init(device: SharedFD, owner: SharedFD) throws(SystemError) {
        let ranges = Ranges(
            SharedFD(owning: try checking("userfaultfd", clinux_userfault_make(device.rawValue))))
        let end = try EventFD()
        self.ranges = ranges
        self.end = end
        // Whoever else would notice may be waiting for a page.
        watch = try Thread(name: "postcopy") {
            _ = clinux_poll_two(
                owner.rawValue, Self.hasLeft, end.rawValue, Int16(POLLIN), -1)
            ranges.stop()
        }
    }

    private static let hasLeft: Int16 = 0x2000  // POLLRDHUP

    /// Leaves a part of memory to the other process, unless that one has left.
    package func add(_ mapping: MemoryMapping) throws(SystemError) {
        let start = unsafe UInt(bitPattern: mapping.base)
        _ = try checking("userfaultfd", ranges.add(start, UInt64(mapping.size)))
    }

    /// From now on pages that are not there are zeroes, also for those who wait. Call it before the
    /// memory goes.
    package func stop() { ranges.stop() }

    deinit {
        stop()
        end.signal()
        watch.join()
    }
}
