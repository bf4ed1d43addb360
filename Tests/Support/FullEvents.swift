package import Core
import Glibc
import Synchronization

/// Fills events and makes their descriptors blocking, as a hostile peer can: who signals one of them
/// waits. The wait ends when the events are emptied, after two seconds.
/// - Returns: whether `body` was done before.
package func passesFullEvents(
    _ events: EventFD..., body: () throws -> Void
) throws -> Bool {
    for event in events {
        event.drain()
        var most = UInt64.max - 1
        // SAFETY: `most` lives for the call and is 8 bytes long.
        _ = unsafe write(event.rawValue, &most, 8)
        let flags = fcntl(event.rawValue, F_GETFL)
        _ = fcntl(event.rawValue, F_SETFL, flags & ~O_NONBLOCK)
    }
    let isDone = Atomic<Bool>(false)
    let isEmptied = Atomic<Bool>(false)
    let thread = try Thread(name: "test-full") {
        for _ in 0..<200 where !isDone.load(ordering: .acquiring) { Clock.sleep(milliseconds: 10) }
        if isDone.load(ordering: .acquiring) { return }
        isEmptied.store(true, ordering: .releasing)
        for event in events { event.drain() }
    }
    defer { thread.join() }
    try body()
    isDone.store(true, ordering: .releasing)
    return !isEmptied.load(ordering: .acquiring)
}
