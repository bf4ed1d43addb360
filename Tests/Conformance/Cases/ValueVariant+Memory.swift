import Core
import TestSupport

extension ValueVariant {
    /// A region as messages describe it.
    private static func region(
        _ guest: UInt64, _ size: UInt64, _ user: UInt64, _ offset: UInt64
    ) -> [UInt8] { u64(guest, size, user, offset) }

    /// A memory table of regions with a file each.
    private static func table(
        _ regions: [[UInt8]], count: Int? = nil, files: Int? = nil
    ) throws -> Packet {
        let file = try Descriptors.memory(page * 4)
        return Packet(
            u32(UInt32(count ?? regions.count), 0) + regions.flatMap { $0 },
            fds: Array(repeating: file, count: files ?? min(regions.count, 64)))
    }

    private static let page: UInt64 = 4096
    private static let user = Session.userOffset

    /// So many regions of a page, one after the other.
    private static func pages(_ count: Int) -> [[UInt8]] {
        (0..<UInt64(count)).map { region($0 * 2 * page, page, user + $0 * 2 * page, 0) }
    }

    /// What no region may be: name, and guest address, size, user address, offset.
    private static let badRegions: [(String, Expectation, UInt64, UInt64, UInt64, UInt64)] = [
        ("region-of-0-bytes", .survived, 0, 0, user, 0),
        ("region-of-max-bytes", .refused, 0, .max, user, 0),
        ("guest-address-wraps", .refused, .max - page + 1, 2 * page, user, 0),
        ("user-address-wraps", .refused, 0, 2 * page, .max - page + 1, 0),
        ("offset-behind-file", .refused, 0, page, user, 4 * page),
        ("offset-far-behind-file", .refused, 0, page, user, 1 << 40),
        ("offset-max", .refused, 0, page, user, .max & ~0xfff),
        ("offset-and-size-wrap", .refused, 0, 2 * page, user, .max - page + 1),
        ("longer-than-file", .refused, 0, 5 * page, user, 0),
        ("far-longer-than-file", .refused, 0, 1 << 40, user, 0),
        ("offset-misaligned", .survived, 0, page, user, 100),
        ("size-misaligned", .survived, 0, 100, user, 0),
    ]

    static var tables: [ValueVariant] { counts + announcedCounts + badTables }

    /// There may be eight regions in a table.
    private static var counts: [ValueVariant] {
        [0, 8, 9, 64, 120].map { count in
            .init("\(count)-regions", count <= 8 ? .survived : .refused) { _ in
                try table(pages(count))
            }
        }
    }

    private static var announcedCounts: [ValueVariant] {
        let counts: [Int] = [9, 200, 0x8000_0001, 0xffff_ffff]
        return counts.map { count in
            .init("\(count)-regions-announced") { _ in try table(pages(2), count: count) }
        }
    }

    private static var badTables: [ValueVariant] {
        let several: [ValueVariant] = [
            .init("overlapping", .survived) { _ in
                let one = region(0, 2 * page, user, 0)
                return try table([one, region(page, 2 * page, user + page, 0)])
            },
            .init("twice-the-same", .survived) { _ in
                try table([region(0, page, user, 0), region(0, page, user, 0)])
            },
        ]
        return several
            + badRegions.map { name, expectation, guest, size, user, offset in
                .init(name, expectation) { _ in try table([region(guest, size, user, offset)]) }
            }
    }

    static func regions(_ request: VhostUserClient.Request) -> [ValueVariant] {
        let isAdding = request == .addRegion
        let bad: [ValueVariant] = badRegions.map { name, expectation, guest, size, user, offset in
            // Far from what is there.
            let far: UInt64 = guest == 0 && size < 1 << 41 ? 1 << 30 : 0
            return .init(name, isAdding ? expectation : .refused, at: .from(.memory)) { _ in
                let file = try Descriptors.memory(page * 4)
                return Packet(
                    u64(0) + region(guest + far, size, user, offset),
                    fds: isAdding ? [file] : [])
            }
        }
        guard !isAdding else {
            return bad + [
                .init("there-already", .survived, at: .from(.memory)) {
                    Packet(
                        u64(0) + VhostUserClient.describe($0.spare, userOffset: user),
                        fds: [try Descriptors.memory(Session.spareSize)])
                }
            ]
        }
        return bad + [
            .init("with-descriptor", .survived, at: .from(.memory)) {
                Packet(
                    u64(0) + VhostUserClient.describe($0.spare, userOffset: user),
                    fds: [try Descriptors.memory(page)])
            },
            .init("of-the-rings", .survived, at: .from(.memory)) {
                let main = $0.scratch.memory.regions[0]
                return Packet(u64(0) + VhostUserClient.describe(main, userOffset: user))
            },
        ]
    }

    static var logs: [ValueVariant] {
        [
            ("log-of-0-bytes", .survived, 0, 0), ("log-of-1-byte", .survived, 1, 0),
            ("log-of-max-bytes", .refused, UInt64.max, 0),
            ("longer-than-file", .refused, 1 << 40, 0),
            ("offset-behind-file", .refused, page, 4 * page), ("offset-max", .refused, page, .max),
            ("offset-misaligned", .survived, page, 8),
        ].map { name, expectation, size, offset in
            .init(name, expectation) { _ in
                Packet(u64(size, offset), fds: [try Descriptors.memory(page * 2)])
            }
        }
    }

    // MARK: What is in flight

    private static func inflight(
        _ size: UInt64, _ offset: UInt64, _ queues: UInt16, _ entries: UInt16
    ) -> [UInt8] {
        u64(size, offset) + littleEndian(queues) + littleEndian(entries)
            + [0, 0, 0, 0]
    }

    static var getInflight: [ValueVariant] {
        [
            ("0-queues", 0, 64), ("0-entries", 2, 0), ("65535-queues", .max, 64),
            ("65535-entries", 2, .max), ("a-gibibyte", .max, 1024), ("3-entries", 2, 3),
        ].map { name, queues, entries in
            .init(name, .survived) { _ in Packet(inflight(0, 0, queues, entries)) }
        }
    }

    static var setInflight: [ValueVariant] {
        [
            ("area-of-0-bytes", Expectation.survived, 0, 0, 1, 64),
            ("area-of-max-bytes", .refused, UInt64.max, 0, 1, 64),
            ("longer-than-file", .refused, 1 << 40, 0, 1, 64),
            ("offset-behind-file", .refused, 4096, 1 << 20, 1, 64),
            ("offset-max", .refused, 4096, .max & ~0xfff, 1, 64),
            ("offset-misaligned", .survived, 4096, 7, 1, 64),
            ("too-small", .refused, 64, 0, 2, 64), ("0-queues", .survived, 4096, 0, 0, 64),
            ("0-entries", .survived, 4096, 0, 1, 0), ("most-of-all", .refused, 4096, 0, .max, .max),
        ].map { name, expectation, size, offset, queues, entries in
            .init(name, expectation, needs: .bit(.inflight)) { _ in
                Packet(
                    inflight(size, offset, queues, entries), fds: [try Descriptors.memory(page * 4)]
                )
            }
        }
    }

    // MARK: Configuration space

    /// A request for or with configuration space; all refused, from where the message is legal.
    private static func config(
        _ name: String, _ expectation: Expectation, _ offset: UInt32, _ size: UInt32,
        flags: UInt32 = 0, bytes: Int
    ) -> ValueVariant {
        .init(name, expectation, at: .from(.negotiated)) { _ in
            Packet(u32(offset, size, flags) + [UInt8](repeating: 0, count: bytes))
        }
    }

    static func readConfig(_ kind: DeviceKind) -> [ValueVariant] {
        // Where there is no field, the answer may be that nothing can be read.
        func isThere(_ end: UInt32) -> Expectation {
            kind.configSize >= end ? .accepted : .survived
        }
        return [
            config("1-byte", isThere(1), 0, 1, bytes: 1),
            config("at-8", isThere(12), 8, 4, bytes: 4),
            config("0-bytes", .survived, 0, 0, bytes: 0),
            config("256-bytes", .survived, 0, 256, bytes: 256),
            config("257-bytes", .refused, 0, 257, bytes: 257),
            config("bytes-missing", .refused, 0, 60, bytes: 0),
            config("0xffffffff-bytes", .refused, 0, .max, bytes: 8),
            config("offset-256", .refused, 256, 8, bytes: 8),
            config("offset-0xffffffff", .refused, .max, 8, bytes: 8),
            config("offset-and-size-wrap", .refused, .max - 3, 8, bytes: 8),
        ]
    }

    static func writeConfig(_ kind: DeviceKind) -> [ValueVariant] {
        var all = [
            config("0-bytes", .survived, 0, 0, bytes: 0),
            config("bytes-missing", .refused, 0, 60, bytes: 0),
            config("0xffffffff-bytes", .refused, 0, .max, bytes: 8),
            config("offset-256", .refused, 256, 8, bytes: 8),
            config("offset-0xffffffff", .refused, .max, 8, bytes: 8),
            config("flags-2", .refused, 0, 8, flags: 2, bytes: 8),
            // The capacity or the tag.
            .init("read-only-field", at: .from(.negotiated)) { _ in
                Packet(u32(0, 8, 0) + u64(0x1234_5678_9abc_def0))
            },
        ]
        if kind == .block {
            // The byte that says how the cache works, where a driver may set it.
            all.append(
                .init("cache-mode", .accepted, at: .from(.owned), needs: .feature(1 << 11)) { _ in
                    Packet(u32(32, 1, 0) + [1])
                })
        }
        return all
    }
}
