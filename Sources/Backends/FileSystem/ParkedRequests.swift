internal import Core

/// The requests of one queue that wait for locks. They are tried again when something was unlocked
/// here, and now and then, because others may unlock something as well.
struct ParkedRequests {
    struct Request {
        let chain: DescriptorChain
        let unique: UInt64
    }

    /// How long until they are tried again: at first, and at most.
    private static let shortest: UInt64 = 5_000_000
    private static let longest: UInt64 = 100_000_000

    private let waits: LockWaits
    private var requests: [Request] = []
    /// What `waits.changes` was when they were tried last.
    private var seen: UInt64 = 0
    private var interval = shortest
    private var nextTry: UInt64 = 0

    init(_ waits: LockWaits) { self.waits = waits }

    /// Whether they are to be tried again now.
    var isDue: Bool {
        !requests.isEmpty && (waits.changes != seen || Clock.monotonic() >= nextTry)
    }

    /// How long they can be left alone; -1: for ever.
    var timeoutMilliseconds: Int32 {
        if requests.isEmpty { return -1 }
        let now = Clock.monotonic()
        return now >= nextTry ? 0 : Int32((nextTry - now) / 1_000_000 + 1)
    }

    /// Adds a request. It is tried once more at once: what was in its way may have gone before
    /// anybody knew that it waits.
    mutating func add(_ chain: DescriptorChain, _ unique: UInt64, _ kick: EventFD) {
        waits.add(unique, kick)
        requests.append(Request(chain: chain, unique: unique))
        interval = Self.shortest
        nextTry = 0
        kick.signal()
    }

    /// Takes all out, for what is not done to be put back.
    mutating func takeAll() -> [Request] {
        let changes = waits.changes
        if changes == seen { interval = min(2 * interval, Self.longest) }
        seen = changes
        nextTry = Clock.monotonic() + interval
        defer { requests = [] }
        return requests
    }

    mutating func put(back request: Request) { requests.append(request) }
}
