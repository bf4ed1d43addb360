import Core
import TestSupport

/// Something wrong, or unusual, in a message's fields.
struct ValueVariant {
    let name: String
    let expectation: Expectation
    /// The steps at which that is certain.
    let steps: Set<Step>
    let need: Need
    let make: (Session) throws -> Packet

    init(
        _ name: String, _ expectation: Expectation = .refused, at steps: Set<Step> = .from(.owned),
        needs need: Need = .nothing,
        _ make: @escaping (Session) throws -> Packet
    ) {
        self.name = name
        self.expectation = expectation
        self.steps = steps
        self.need = need
        self.make = make
    }
}

extension DeviceKind {
    /// The unusual contents of a message.
    func values(_ request: VhostUserClient.Request) -> [ValueVariant] {
        switch request {
        case .setFeatures: ValueVariant.features
        case .setProtocolFeatures: ValueVariant.protocolFeatures
        case .setMemoryTable: ValueVariant.tables
        case .addRegion, .removeRegion: ValueVariant.regions(request)
        case .setLogBase: ValueVariant.logs
        case .setRingSize: ValueVariant.rings { [$0, 64] } + ValueVariant.ringSizes
        case .setRingBase: ValueVariant.rings { [$0, 0] } + ValueVariant.bases
        case .getRingBase, .suspendRing, .kickRing: ValueVariant.rings { [$0, 0] }
        case .enableRing: ValueVariant.rings { [$0, 1] } + ValueVariant.enables
        case .setRingAddresses: ValueVariant.addresses
        case .setKick, .setCall, .setError: ValueVariant.events
        case .getConfig: ValueVariant.readConfig(self)
        case .setConfig: ValueVariant.writeConfig(self)
        case .getInflight: ValueVariant.getInflight
        case .setInflight: ValueVariant.setInflight
        case .setStatus: [.init("0x100", .survived) { _ in Packet(u64(0x100)) }]
        case .iotlb: ValueVariant.translations
        case .setDeviceState: ValueVariant.deviceStates
        default: []
        }
    }
}

extension ValueVariant {
    fileprivate static var features: [ValueVariant] {
        [
            .init("none", .survived) { _ in Packet(u64(0)) },
            .init("all", .survived) { _ in Packet(u64(.max)) },
            .init("without-protocol-features", .survived) {
                Packet(u64($0.features & ~VhostUserClient.protocolFeaturesBit))
            },
        ]
    }

    fileprivate static var protocolFeatures: [ValueVariant] {
        [
            .init("none", .survived, at: .all) { _ in Packet(u64(0)) },
            .init("all", .survived, at: .all) { _ in Packet(u64(.max)) },
            .init(
                "in-band-without-channel", at: .all,
                needs: .bit(.inBand)
            ) { _ in Packet(u64(1 << 14)) },
        ]
    }

    /// Numbers of rings that do not exist.
    fileprivate static func rings(
        _ words: @escaping (UInt32) -> [UInt32]
    ) -> [ValueVariant] {
        func variant(_ name: String, _ number: @escaping (Session) -> UInt32) -> ValueVariant {
            .init(name) { Packet(words(number($0)).flatMap { littleEndian($0) }) }
        }
        return [
            .init("ring-behind-last", needs: .bit(.multiQueue)) {
                let number = UInt32(truncatingIfNeeded: $0.facts.queueCount)
                return Packet(words(number).flatMap { littleEndian($0) })
            },
            .init("ring-200", needs: .freeRing(200)) { _ in
                Packet(words(200).flatMap { littleEndian($0) })
            },
            variant("ring-0x10000") { _ in 0x1_0000 },
            variant("ring-0x80000000") { _ in 0x8000_0000 },
            variant("ring-0xffffffff") { _ in .max },
        ]
    }

    /// More than 32768 is not possible; that a split ring's size is a power of two is for the
    /// driver to see to.
    fileprivate static var ringSizes: [ValueVariant] {
        [32769, 65536, 0x1_0040, 0x8000_0000, UInt32.max].map { size in
            .init("num-\(size)") { Packet(u32($0.ring, size)) }
        }
            + [0, 3, 1, 32768].map { size in
                .init("num-\(size)", .survived) { Packet(u32($0.ring, size)) }
            }
    }

    fileprivate static var bases: [ValueVariant] {
        [1, 64, 65535, 65536, UInt32.max].map { base in
            .init("num-\(base)", .survived) { Packet(u32($0.ring, base)) }
        }
    }

    fileprivate static var enables: [ValueVariant] {
        [0, 2, UInt32.max].map { value in
            .init("num-\(value)", .survived) { Packet(u32($0.ring, value)) }
        }
    }

    fileprivate static var addresses: [ValueVariant] {
        /// One field of a good message replaced; 8 bytes at 8 descriptor, 16 used, 24 available.
        func changed(_ session: Session, _ field: Int, _ value: UInt64) -> Packet {
            let good = session.ringAddresses
            return Packet(
                good[..<field] + littleEndian(value) + good[(field + 8)...])
        }
        var all = ValueVariant.rings { [$0, 0, 0, 0, 0, 0, 0, 0, 0, 0] }
        // The size must be known to tell whether there is room.
        let checked = Set<Step>.from(.rings, before: .reset)
        let end = Session.mainStart + Session.mainSize + Session.userOffset
        for (name, field) in [("descriptors", 8), ("used", 16), ("available", 24)] {
            for (place, value) in [
                ("at-0", 0), ("at-guest-address", Session.mainStart), ("at-end", end),
                ("at-last-bytes", end - 2), ("at-2-to-63", 1 << 63), ("at-last-page", .max - 4095),
                ("at-max", .max & ~15),
            ] as [(String, UInt64)] {
                all.append(
                    .init("\(name)-\(place)", at: checked) { changed($0, field, value) })
            }
            all.append(
                .init("\(name)-misaligned", .survived, at: checked) { session in
                    let good = VhostUserClient.value(session.ringAddresses, field, UInt64.self)
                    return changed(session, field, good + 1)
                })
        }
        all.append(
            .init("unknown-flags", .survived, at: checked) {
                let good = $0.ringAddresses
                return Packet(good[..<4] + u32(0xffff_fffe) + good[8...])
            })
        return all
    }

    fileprivate static var events: [ValueVariant] {
        [
            .init("ring-255", needs: .freeRing(255)) { _ in
                Packet(u64(255), fds: [try EventFD().fd])
            },
            .init("ring-behind-last", needs: .freeRing(255)) {
                Packet(u64($0.facts.queueCount), fds: [try EventFD().fd])
            },
            .init("no-event-polled", .survived) { Packet(u64(UInt64($0.ring) | 0x100)) },
            .init("no-event-with-event", .survived) {
                Packet(u64(UInt64($0.ring) | 0x100), fds: [try EventFD().fd])
            },
            .init("high-bits", .survived) {
                Packet(u64(UInt64($0.ring) | 0xffff_ffff_ffff_0000), fds: [try EventFD().fd])
            },
        ]
    }

    fileprivate static var translations: [ValueVariant] {
        [0, 1, 2, 3, 4, 5, 255].map { type in
            .init("type-\(type)", .survived) { _ in
                Packet(u64(0, .max, .max) + [3, UInt8(type), 0, 0, 0, 0, 0, 0])
            }
        }
    }

    fileprivate static var deviceStates: [ValueVariant] {
        [
            .init("direction-2") { _ in Packet(u32(2, 0), fds: [try Descriptors.pipe()]) },
            .init("phase-1") { _ in Packet(u32(0, 1), fds: [try Descriptors.pipe()]) },
        ]
    }
}
