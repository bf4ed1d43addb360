internal import CLinux
internal import Core
internal import Glibc

/// What is locked by an open file, noted for another process: the kernel does not say what one holds.
struct HeldLocks: Equatable, Sendable {
    enum Kind: UInt8, Sendable {
        case read = 0
        case write = 1
        case unlock = 2

        /// - Parameter type: F_RDLCK, F_WRLCK or F_UNLCK.
        init(_ type: Int32) {
            self = UInt8(exactly: type).flatMap(Kind.init(rawValue:)) ?? .unlock
        }
    }

    /// A part of the file, from its first to its last byte; `.max`: to the end.
    struct Range: Equatable, Sendable {
        var start: Int64
        var end: Int64
        let kind: Kind

        /// As the kernel takes it; a length of 0: to the end.
        var asLock: clinux_lock {
            clinux_lock(
                start: start, length: end == .max ? 0 : end - start + 1, type: Int32(kind.rawValue))
        }
    }

    /// As many parts are noted for a file.
    static let limit = 1024

    /// In order, and no two for the same byte.
    private(set) var ranges: [Range] = []
    /// LOCK_SH, LOCK_EX or LOCK_UN (flock(2)).
    var wholeFile: Int32 = LOCK_UN

    var isEmpty: Bool { ranges.isEmpty && wholeFile == LOCK_UN }

    /// Notes what is locked, or unlocked, from now on. What is more than the limit is not noted.
    mutating func set(_ start: Int64, through end: Int64, _ kind: Kind) {
        var new: [Range] = []
        new.reserveCapacity(ranges.count + 2)
        for range in ranges {
            if range.end < start || range.start > end {
                new.append(range)
                continue
            }
            if range.start < start {
                new.append(Range(start: range.start, end: start - 1, kind: range.kind))
            }
            if range.end > end {
                new.append(Range(start: end + 1, end: range.end, kind: range.kind))
            }
        }
        if kind != .unlock {
            let place = new.firstIndex { $0.start > start } ?? new.count
            new.insert(Range(start: start, end: end, kind: kind), at: place)
            Self.join(&new, around: place)
        }
        ranges = Array(new.prefix(Self.limit))
    }

    /// Notes what is locked behind all that is noted.
    /// - Returns: `false`: it is not behind that, or nothing.
    mutating func append(_ range: Range) -> Bool {
        guard range.start >= 0, range.start <= range.end, range.kind != .unlock,
            ranges.count < Self.limit, range.start > ranges.last?.end ?? -1
        else { return false }
        ranges.append(range)
        return true
    }

    /// Makes one of neighbours of a kind.
    private static func join(_ ranges: inout [Range], around place: Int) {
        for left in [place, place - 1] where left >= 0 && left + 1 < ranges.count {
            let (first, second) = (ranges[left], ranges[left + 1])
            guard first.kind == second.kind, first.end == second.start - 1 else { continue }
            ranges[left].end = second.end
            ranges.remove(at: left + 1)
        }
    }
}

extension OpenFile {
    /// Locks what it is to hold.
    /// - Returns: whether all of it is locked.
    func lockHeld() -> Bool {
        let held = self.held.withLock { $0 }
        var isWhole = true
        if held.wholeFile != LOCK_UN {
            isWhole = clinux_lock_open_file(fd, held.wholeFile | LOCK_NB) == 0
        }
        for range in held.ranges {
            var lock = range.asLock
            if unsafe clinux_set_lock(fd, &lock) != 0 { isWhole = false }
        }
        return isWhole
    }

    /// Gives back what it holds, but goes on to know of it.
    func unlockHeld() {
        let held = self.held.withLock { $0 }
        if held.wholeFile != LOCK_UN { _ = clinux_lock_open_file(fd, LOCK_UN) }
        guard !held.ranges.isEmpty else { return }
        var all = clinux_lock(start: 0, length: 0, type: Int32(HeldLocks.Kind.unlock.rawValue))
        _ = unsafe clinux_set_lock(fd, &all)
    }
}
