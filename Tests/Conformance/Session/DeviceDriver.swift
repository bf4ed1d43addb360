import Core
import TestSupport

/// A ring, with what wakes its two sides.
struct Lane {
    let queue: DriverQueue
    let kick: EventFD
    let call: EventFD
}

/// The driver of a device, as far as it takes to see whether the device works.
protocol DeviceDriver: AnyObject {
    /// The queue that requests go to. It and all before it are set up.
    static var requestQueue: Int { get }
    /// Does real I/O and looks at the results.
    func check(_ lane: Lane, timeoutMilliseconds: UInt64) throws
    /// Puts requests into the ring that change something or are at least answered in full.
    func launch(_ lane: Lane)
    /// Waits for all that was launched, and looks at the results.
    func finish(_ lane: Lane, timeoutMilliseconds: UInt64) throws
    /// The memory that `check` has the device write to, if it writes any but the ring.
    var written: DriverBuffer? { get }
}

extension DeviceDriver {
    /// Waits for `count` requests.
    func collect(_ count: Int, _ lane: Lane, timeoutMilliseconds: UInt64) throws -> [UsedRequest] {
        var used: [UsedRequest] = []
        while used.count < count {
            guard
                let next = try lane.queue.awaitUsed(
                    lane.call, timeoutMilliseconds: timeoutMilliseconds)
            else { throw Failure("\(count - used.count) of \(count) requests are not answered") }
            used.append(next)
        }
        return used
    }
}

/// The kinds of device there is a driver for.
enum DeviceKind: String, CaseIterable, Sendable {
    case block
    case console
    case fs
    case net
    case random = "rng"
    case vsock

    /// The number of the queue that requests go to.
    var requestQueue: Int {
        switch self {
        case .block: BlockDriver.requestQueue
        case .console, .net, .vsock: SendingDriver.requestQueue
        case .fs: FSDriver.requestQueue
        case .random: RandomDriver.requestQueue
        }
    }

    func makeDriver(_ scratch: ScratchMemory, features: UInt64) -> any DeviceDriver {
        switch self {
        case .block: BlockDriver(scratch, features: features)
        case .console: SendingDriver(scratch, SendingDriver.line)
        case .fs: FSDriver(scratch)
        case .net: SendingDriver(scratch, SendingDriver.frame)
        case .random: RandomDriver(scratch)
        case .vsock: SendingDriver(scratch, SendingDriver.packet)
        }
    }
}
