package import Core
internal import Glibc

/// Which of the host's users (or groups) a guest's are, by rules that are written as virtiofsd's are.
/// Whom no rule names is the same on both sides.
///
///     map:0:1000:10             the guest's 0 to 9 are the host's 1000 to 1009, and the reverse
///     guest:0:1000:10           only what the guest makes
///     host:1000:0:10            only what the guest sees
///     squash-guest:0:1000:10    the guest's 0 to 9 are all the host's 1000
///     squash-host:1000:0:10     the host's 1000 to 1009 are all the guest's 0
///     forbid-guest:0:10         the guest's 0 to 9 make nothing
package struct IDMap: Equatable, Sendable {
    private struct Entry: Equatable {
        enum Target: Equatable {
            case range(UInt32)
            case one(UInt32)
            case nobody
        }

        let ids: Range<UInt64>
        let target: Target
    }

    /// Sorted by their first number.
    private var toHost: [Entry] = []
    private var toGuest: [Entry] = []

    package init() {}

    package init(_ rules: [String]) throws(OptionError) {
        for rule in rules {
            do throws(OptionError) {
                try add(rule)
            } catch {
                throw error.inside("'\(rule)'")
            }
        }
    }

    /// All are the same on both sides.
    var isEmpty: Bool { toHost.isEmpty && toGuest.isEmpty }

    private mutating func add(_ rule: String) throws(OptionError) {
        let parts = rule.split(separator: ":", omittingEmptySubsequences: false)
        var numbers: [UInt32] = []
        for part in parts.dropFirst() {
            guard let number = UInt32(part), part.utf8.allSatisfy({ (0x30...0x39).contains($0) })
            else { throw OptionError("'\(part)' is not a number of 32 bits") }
            numbers.append(number)
        }
        let type = parts[0]
        guard numbers.count == (type == "forbid-guest" ? 2 : 3), let count = numbers.last else {
            throw OptionError(
                "a rule is TYPE:FROM:TO:COUNT, or forbid-guest:FROM:COUNT, with numbers")
        }
        let (from, to) = (numbers[0], numbers[1])
        switch type {
        case "map":
            try Self.add(from, count, .range(to), &toHost)
            try Self.add(to, count, .range(from), &toGuest)
        case "guest": try Self.add(from, count, .range(to), &toHost)
        case "host": try Self.add(from, count, .range(to), &toGuest)
        case "squash-guest": try Self.add(from, count, .one(to), &toHost)
        case "squash-host": try Self.add(from, count, .one(to), &toGuest)
        case "forbid-guest": try Self.add(from, count, .nobody, &toHost)
        default:
            throw OptionError(
                "'\(type)' is not one of map, guest, host, squash-guest, squash-host, forbid-guest")
        }
    }

    private static func add(
        _ first: UInt32, _ count: UInt32, _ target: Entry.Target, _ entries: inout [Entry]
    ) throws(OptionError) {
        let ids = UInt64(first)..<UInt64(first) + UInt64(count)
        // The last number stands for nobody.
        let limit = UInt64(UInt32.max)
        guard count > 0, ids.upperBound <= limit else {
            throw OptionError("numbers are below \(limit), and there is at least one")
        }
        if case .range(let to) = target, UInt64(to) + UInt64(count) > limit {
            throw OptionError("numbers are below \(limit)")
        }
        guard !entries.contains(where: { $0.ids.overlaps(ids) }) else {
            throw OptionError("another rule is about the same numbers")
        }
        let place = entries.firstIndex { $0.ids.lowerBound > ids.lowerBound } ?? entries.endIndex
        entries.insert(Entry(ids: ids, target: target), at: place)
    }

    /// - Returns: `nil`: nobody.
    private static func find(_ id: UInt32, _ entries: [Entry]) -> UInt32? {
        for entry in entries {
            guard entry.ids.lowerBound <= UInt64(id) else { break }
            guard entry.ids.contains(UInt64(id)) else { continue }
            switch entry.target {
            case .range(let first): return first + UInt32(UInt64(id) - entry.ids.lowerBound)
            case .one(let other): return other
            case .nobody: return nil
            }
        }
        return id
    }

    /// Whom the guest means.
    func host(_ guest: UInt32) throws(FUSEError) -> UInt32 {
        guard let host = Self.find(guest, toHost) else { throw FUSEError(EPERM) }
        return host
    }

    /// Whom the guest sees.
    func guest(_ host: UInt32) -> UInt32 { Self.find(host, toGuest) ?? host }
}
