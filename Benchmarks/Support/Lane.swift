import CLinux
public import Core
import Foundation
public import TestSupport

/// What a lane sends: operations of one or more requests each, a fixed number of them at a time.
public protocol QueueLoad: SendableMetatype {
    /// How many operations are under way at once.
    var depth: Int { get }

    /// Adds the next request of an operation to the queue.
    /// - Returns: whether there was one; this place stays empty otherwise.
    mutating func send(_ place: Int, to queue: DriverQueue) throws -> Bool

    /// Looks at the answer to the last request of an operation.
    /// - Returns: whether that was the operation's last one.
    mutating func receive(_ place: Int, written: UInt32) throws -> Bool
}

/// What a load has measured.
public struct LoadResult: Sendable {
    public var operations = 0
    /// From the first request to the last answer, in nanoseconds.
    public var elapsed: UInt64 = 0
    package var latencies = LatencyHistogram()

    public init() {}

    /// Counts an operation.
    public mutating func add(latency: UInt64) {
        operations += 1
        latencies.add(latency)
    }

    /// Takes in what another lane measured at the same time.
    package mutating func merge(_ other: LoadResult) {
        operations += other.operations
        elapsed = max(elapsed, other.elapsed)
        latencies.merge(other.latencies)
    }
}

/// A queue of the driver's side, with what wakes the two ends.
public final class Lane {
    public let queue: DriverQueue
    public let kick: EventFD
    public let call: EventFD

    public init(_ queue: DriverQueue) throws {
        self.queue = queue
        kick = try EventFD()
        call = try EventFD()
    }

    /// Sends a load for some time, or until it has no more to send. Sleeps when nothing can be sent
    /// and no answer has come.
    @inlinable
    public func run<Load: QueueLoad>(_ load: inout Load, nanoseconds: UInt64) throws -> LoadResult {
        var result = LoadResult()
        var ready = Array(0..<load.depth)
        var starts = [UInt64](repeating: 0, count: load.depth)
        let start = Clock.monotonic()
        var now = start
        let end = start + nanoseconds
        var inFlight = 0
        while true {
            while let place = ready.popLast() {
                if starts[place] == 0 {
                    if now >= end { continue }
                    starts[place] = now
                }
                if try load.send(place, to: queue) { inFlight += 1 } else { starts[place] = 0 }
            }
            if queue.publish() { kick.signal() }
            if inFlight == 0 { break }
            if try !take(&load, &ready, &starts, &result, &inFlight, &now), !queue.enableCalls() {
                try sleep()
            }
        }
        result.elapsed = Clock.monotonic() - start
        return result
    }

    /// Takes all answers that are there.
    /// - Returns: whether there were any.
    @inlinable
    func take<Load: QueueLoad>(
        _ load: inout Load, _ ready: inout [Int], _ starts: inout [UInt64],
        _ result: inout LoadResult, _ inFlight: inout Int, _ now: inout UInt64
    ) throws -> Bool {
        now = Clock.monotonic()
        let before = inFlight
        while let used = try queue.popUsed() {
            let place = Int(used.token)
            inFlight -= 1
            ready.append(place)
            guard try load.receive(place, written: used.written) else { continue }
            result.add(latency: now - starts[place])
            starts[place] = 0
        }
        return inFlight < before
    }

    /// Waits for a call.
    public func sleep() throws {
        guard clinux_poll_two(call.rawValue, Int16(POLLIN), -1, 0, 5000) != 0 else {
            throw VhostUserClient.Failure("the device does not answer")
        }
        call.drain()
    }
}
