internal import TCGDecoder

/// A memory operand at a register and a distance.
struct Access {
    var base: UInt8
    var displacement: Int32
    var size: UInt8
    var isWrite: Bool
    /// Others can rely on it: there is no way around it in its operation. The interpreter may
    /// execute the operation before the second access of a PUSH from memory is reached.
    var isSure = true
}

/// What matters for which accesses of a block can share a look into the soft TLB, in order.
enum AccessEvent {
    /// The next access that `HostBlock.reach` is asked for.
    case access(Access)
    /// General registers are changed, one bit each.
    case written(UInt32)
    /// A general register is moved by a known distance.
    case moved(UInt8, Int32)
    /// The mode may be another, or the interpreter may change anything.
    case barrier
}

/// Which accesses of a block share a look into the soft TLB: those whose addresses are at known
/// distances from each other, by way of a register that does not change in between or by known
/// distances only, as RSP does, and the pointers of loops. The first one looks for all; a host
/// address that is kept in the frame serves the others.
///
/// Where the whole range is not in one page, or not as accessible as one of the accesses needs,
/// nothing is known about any single one: the block goes on in code that looks each time.
struct AccessPlan {
    /// What an access does.
    enum Role {
        case alone
        /// It looks for a range that begins at `start` from its base register.
        case first(group: Int, start: Int32, offset: Int32)
        /// The operand is at `offset` from the group's host address.
        case follower(group: Int, offset: Int32)
    }

    struct Group {
        var size: Int32
        var isWrite: Bool
        /// Which of the frame's places keeps the host address.
        var place: Int
    }

    private(set) var roles: [Role] = []
    private(set) var groups: [Group] = []

    /// The longest range. The longer, the more often it is in two pages.
    private static let largest: Int32 = 512

    /// Accesses to one range, while it is not known yet how many there will be.
    private struct Candidate {
        var base: UInt8
        /// The base's distance at the first access from where it was at first.
        var moved: Int32
        /// The range, seen from the base register as it was at first.
        var start: Int32
        var end: Int32
        var isWrite: Bool
        /// Numbers and offsets of the accesses.
        var members: [(number: Int, offset: Int32)]
    }

    init(_ events: [AccessEvent]) {
        var open: [Candidate] = []
        var found: [Candidate] = []
        var moved = InlineArray<16, Int32>(repeating: 0)
        func close(_ isConcerned: (Candidate) -> Bool) {
            for candidate in open where candidate.members.count > 1 && isConcerned(candidate) {
                found.append(candidate)
            }
            open.removeAll(where: isConcerned)
        }
        for event in events {
            switch event {
            case .barrier: close { _ in true }
            case .written(let registers): close { registers >> UInt32($0.base) & 1 != 0 }
            case .moved(let register, let distance):
                let place = Int(register & 15)
                // Both are small.
                moved[place] += distance
                if moved[place].magnitude > 1 << 20 {
                    close { $0.base == register }
                    moved[place] = 0
                }
            case .access(let access):
                let number = roles.count
                roles.append(.alone)
                // Distances between any two of them are numbers of 32 bits, too.
                guard access.displacement.magnitude < 1 << 29 else { continue }
                let ownMove = moved[Int(access.base & 15)]
                let start = access.displacement + ownMove
                let end = start + Int32(access.size)
                if let place = open.firstIndex(where: { $0.base == access.base }) {
                    let (low, high) = (min(open[place].start, start), max(open[place].end, end))
                    if high - low <= Self.largest {
                        open[place].start = low
                        open[place].end = high
                        if access.isWrite { open[place].isWrite = true }
                        open[place].members.append((number, start))
                        continue
                    }
                    close { $0.base == access.base }
                }
                guard access.isSure else { continue }
                open.append(
                    Candidate(
                        base: access.base, moved: ownMove, start: start, end: end,
                        isWrite: access.isWrite, members: [(number, start)]))
            }
        }
        close { _ in true }
        assign(found)
    }

    /// Gives places to groups, as long as there are some.
    private mutating func assign(_ candidates: [Candidate]) {
        /// The last access that each place serves.
        var takenUntil = [Int](repeating: -1, count: HostFrame.placeCount)
        let inOrder = candidates.sorted { $0.members[0].number < $1.members[0].number }
        for candidate in inOrder {
            let (first, last) = (candidate.members[0], candidate.members.last?.number ?? 0)
            guard let place = takenUntil.firstIndex(where: { $0 < first.number }) else { continue }
            takenUntil[place] = last
            let group = groups.count
            groups.append(
                Group(
                    size: candidate.end - candidate.start, isWrite: candidate.isWrite, place: place
                ))
            for member in candidate.members {
                roles[member.number] = .follower(
                    group: group, offset: member.offset - candidate.start)
            }
            roles[first.number] = .first(
                group: group, start: candidate.start - candidate.moved,
                offset: first.offset - candidate.start)
        }
    }
}
