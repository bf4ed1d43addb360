internal import Synchronization

/// The addresses that a driver uses behind an IOMMU (VIRTIO_F_ACCESS_PLATFORM), as far as they are
/// known: a front end tells of them one by one when it is asked (vhost-user specification, "IOMMU
/// support"). Here they lead to guest addresses.
///
/// One thread makes changes. Queues' threads look up, each through an `IOTLBClient`.
public final class IOTLB: Sendable {
    public struct Access: OptionSet, Sendable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        public static let read = Access(rawValue: 1)
        public static let write = Access(rawValue: 2)
    }

    public struct Entry: Sendable {
        public var start: UInt64
        public var size: UInt64
        public var guest: UInt64
        public var access: Access

        public init(start: UInt64, size: UInt64, guest: UInt64, access: Access) {
            self.start = start
            self.size = size
            self.guest = guest
            self.access = access
        }
    }

    private struct State {
        /// By address, without overlaps.
        var entries: [Entry] = []
        var waiting: [IOTLBClient] = []
    }

    /// A front end that tells of more has something wrong, or makes us forget what is old.
    private static let capacity = 4096

    private let state = Lock(State())
    /// Asks for an address; called on any thread.
    let onMiss: @Sendable (UInt64, Access) -> Void

    public init(onMiss: @escaping @Sendable (UInt64, Access) -> Void) { self.onMiss = onMiss }

    /// Adds a translation, in place of what overlaps it. Neither range wraps around.
    public func add(_ entry: Entry) {
        let waiting = state.withLock { state in
            if state.entries.count >= Self.capacity { state.entries = [] }
            state.entries.removeAll { Self.overlaps($0, entry.start, entry.size) }
            let place = Self.position(state.entries, entry.start)
            state.entries.insert(entry, at: place)
            defer { state.waiting = [] }
            return state.waiting
        }
        for client in waiting { client.wake() }
    }

    /// Forgets what overlaps the range.
    public func remove(start: UInt64, size: UInt64) {
        state.withLock { $0.entries.removeAll { Self.overlaps($0, start, size) } }
    }

    /// Forgets everything.
    public func removeAll() { state.withLock { $0.entries = [] } }

    private static func overlaps(_ entry: Entry, _ start: UInt64, _ size: UInt64) -> Bool {
        guard size > 0 else { return false }
        return entry.start <= start &+ (size &- 1) && start <= entry.start &+ (entry.size &- 1)
    }

    /// The first entry that begins behind the address.
    private static func position(_ entries: [Entry], _ address: UInt64) -> Int {
        entries.prefixCount { $0.start <= address }
    }

    /// The guest address, and how many bytes follow there, itself included.
    /// - Parameter client: who is to be woken up when more is known, if this is not.
    func find(
        _ address: UInt64, _ access: Access, for client: IOTLBClient? = nil
    ) -> (guest: UInt64, available: UInt64)? {
        state.withLock { state in
            let place = Self.position(state.entries, address)
            if place > 0 {
                let entry = state.entries[place - 1]
                let offset = address &- entry.start
                if offset < entry.size, entry.access.isSuperset(of: access) {
                    return (entry.guest &+ offset, entry.size &- offset)
                }
            }
            if let client, !state.waiting.contains(where: { $0 === client }) {
                state.waiting.append(client)
            }
            return nil
        }
    }

    /// The first address of a range that is not known; `nil` if all are.
    public func firstUnknown(_ address: UInt64, count: UInt64, _ access: Access) -> UInt64? {
        visit(address, count, access) { _, _ in true }
    }

    /// Asks what an address stands for.
    public func ask(_ address: UInt64, _ access: Access) { onMiss(address, access) }

    /// The guest address of a range that is known and lies in one piece there.
    public func translate(_ address: UInt64, count: UInt64, _ access: Access) -> GuestAddress? {
        var first: UInt64?
        let rest = visit(address, count, access) { guest, done in
            first = first ?? guest
            return guest &- done == first
        }
        return rest == nil ? first.map(GuestAddress.init) : nil
    }

    /// Goes through the pieces of a range: each one's guest address, and its place in the range.
    /// - Returns: where it ends because that is not known or `body` says no.
    private func visit(
        _ address: UInt64, _ count: UInt64, _ access: Access,
        _ body: (_ guest: UInt64, _ done: UInt64) -> Bool
    ) -> UInt64? {
        var done: UInt64 = 0
        while done < count {
            let place = address.addingReportingOverflow(done)
            guard !place.overflow, let (guest, available) = find(place.partialValue, access),
                body(guest, done)
            else { return place.partialValue }
            done += min(available, count - done)
        }
        return nil
    }
}

/// A queue's way to its IOTLB. One thread looks up; another may end its waiting.
public final class IOTLBClient: Sendable {
    /// How long a front end has to answer. It says nothing if there is no translation.
    private static let patienceMilliseconds: UInt64 = 10_000

    private let iotlb: IOTLB
    private let change = Semaphore()
    private let isCut = Atomic<Bool>(false)

    public init(_ iotlb: IOTLB) { self.iotlb = iotlb }

    func wake() { change.signal() }

    /// Whether waiting has been ended.
    var isOver: Bool { isCut.load(ordering: .acquiring) }

    /// Ends all waiting, now and later.
    public func cut() {
        isCut.store(true, ordering: .releasing)
        wake()
    }

    /// The guest address, which the front end is asked for if it is not known.
    func find(
        _ address: UInt64, _ access: IOTLB.Access
    ) -> (guest: UInt64, available: UInt64)? {
        if let found = iotlb.find(address, access, for: self) { return found }
        iotlb.onMiss(address, access)
        let deadline = Clock.monotonic() &+ Self.patienceMilliseconds &* 1_000_000
        while !isCut.load(ordering: .acquiring) {
            let now = Clock.monotonic()
            guard now < deadline else { break }
            _ = change.wait(milliseconds: UInt32(clamping: (deadline - now) / 1_000_000 + 1))
            if let found = iotlb.find(address, access, for: self) { return found }
        }
        return nil
    }
}
