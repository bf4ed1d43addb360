internal import CLinux
internal import Core
internal import Glibc

/// Which interface is behind which port of a switch, learned from the frames that they send. Its size
/// is fixed, and no port has more than its share of it, whatever is sent.
///
/// An address has four places, which a number that nobody outside knows chooses; ports that send from
/// many addresses displace their own only.
// SAFETY: `entries` is the mapping, which lives as long as this object; zeroes are free entries. All
// indices are below `entryCount`.
@safe final class AddressTable {
    /// What became of a frame's source.
    enum Lesson {
        case known
        /// It is another port's, and stays so.
        case taken
    }

    /// Seconds after which an address that is not heard of is forgotten.
    static let lifetime: UInt32 = 300
    /// The most addresses of a port, and of one behind which there is a whole network.
    static let portShare = 64
    static let networkShare = 2048
    private static let ways = 4
    private static let bucketBits: UInt64 = 11
    private static let entryCount = ways << bucketBits

    private struct Entry {
        /// 0: free.
        var address: UInt64
        var seen: UInt32
        var port: UInt32

        func isGone(_ now: UInt32) -> Bool {
            address == 0 || now &- seen > AddressTable.lifetime
        }
    }

    private let mapping: MemoryMapping
    private let entries: UnsafeMutablePointer<Entry>
    private let key: UInt64
    private let keepsOwners: Bool
    private var counts: [Int]
    private var lastSweep: UInt32 = 0
    private let shares: [Int]

    /// - Parameters:
    ///   - shares: the most addresses of each port.
    ///   - keepsOwners: an address that is in use is not another port's by sending from it.
    init(shares: [Int], keepsOwners: Bool) throws(SystemError) {
        mapping = try MemoryMapping(anonymous: Self.entryCount * MemoryLayout<Entry>.stride)
        unsafe entries = mapping.base.bindMemory(to: Entry.self, capacity: Self.entryCount)
        var key: UInt64 = 0
        // SAFETY: the result lives for the call and is eight bytes long.
        _ = unsafe clinux_random(&key, 8)
        self.key = key | 1
        self.keepsOwners = keepsOwners
        self.shares = shares
        counts = [Int](repeating: 0, count: shares.count)
    }

    private func bucket(_ address: UInt64) -> Int {
        let product = address &* key
        // Where the key is close to a simple fraction of 2^64, products of numbers that follow one
        // another differ in their lower bits only.
        let mixed = (product ^ product >> 32) &* 0x9e37_79b9_7f4a_7c15
        return Int(mixed >> (64 - Self.bucketBits)) * Self.ways
    }

    /// The port behind which `address` is, as far as is known.
    /// - Parameter now: seconds.
    func port(of address: UInt64, at now: UInt32) -> Int? {
        let start = bucket(address)
        for index in start..<start + Self.ways {
            let entry = unsafe entries[index]
            if entry.address == address { return entry.isGone(now) ? nil : Int(entry.port) }
        }
        return nil
    }

    /// A frame from `address`, which is not zero, has come by `port`.
    func learn(_ address: UInt64, at port: Int, _ now: UInt32) -> Lesson {
        let start = bucket(address)
        for index in start..<start + Self.ways where unsafe entries[index].address == address {
            if unsafe Int(entries[index].port) == port {
                unsafe entries[index].seen = now
                return .known
            }
            if keepsOwners, unsafe !entries[index].isGone(now) { return .taken }
            free(index)
        }
        guard hasRoom(port, now), let index = place(start, port, now) else { return .known }
        free(index)
        unsafe entries[index] = Entry(
            address: address, seen: now, port: UInt32(truncatingIfNeeded: port))
        counts[port] += 1
        return .known
    }

    /// One that is free or forgotten, or else the port's own that has been quiet for longest.
    private func place(_ start: Int, _ port: Int, _ now: UInt32) -> Int? {
        var oldest: Int?
        for index in start..<start + Self.ways {
            let entry = unsafe entries[index]
            if entry.isGone(now) { return index }
            guard Int(entry.port) == port else { continue }
            if let other = oldest, unsafe entries[other].seen <= entry.seen { continue }
            oldest = index
        }
        return oldest
    }

    private func hasRoom(_ port: Int, _ now: UInt32) -> Bool {
        if counts[port] < shares[port] { return true }
        guard lastSweep != now else { return false }
        lastSweep = now
        removeAll { $0.isGone(now) }
        return counts[port] < shares[port]
    }

    private func free(_ index: Int) {
        guard unsafe entries[index].address != 0 else { return }
        counts[unsafe Int(entries[index].port)] -= 1
        unsafe entries[index].address = 0
    }

    private func removeAll(_ condition: (Entry) -> Bool) {
        for index in 0..<Self.entryCount {
            let entry = unsafe entries[index]
            if entry.address != 0, condition(entry) { free(index) }
        }
    }

    /// Forgets what is behind a port.
    func forget(_ port: Int) {
        if counts[port] > 0 { removeAll { Int($0.port) == port } }
    }
}
