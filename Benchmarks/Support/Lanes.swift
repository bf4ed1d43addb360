import Core
import Foundation
import Synchronization
import TestSupport

/// Runs a load on each of several queues at once, each on a thread of its own.
package func runLoads<Load: QueueLoad>(
    _ loads: [Load], on lanes: [Lane], nanoseconds: UInt64
) throws -> LoadResult {
    let total = Mutex(LoadResult())
    let failure = Mutex<String?>(nil)
    let threads = try zip(loads, lanes).enumerated().map { index, pair in
        // SAFETY: a load and its lane belong to their thread alone until that has been joined.
        nonisolated(unsafe) let pair = pair
        return try Core.Thread(name: "lane \(index)") {
            do {
                var load = unsafe pair.0
                let result = try unsafe pair.1.run(&load, nanoseconds: nanoseconds)
                total.withLock { $0.merge(result) }
            } catch {
                failure.withLock { $0 = "\(error)" }
            }
        }
    }
    for thread in threads { thread.join() }
    if let failure = failure.withLock({ $0 }) { throw VhostUserClient.Failure(failure) }
    return total.withLock { $0 }
}
