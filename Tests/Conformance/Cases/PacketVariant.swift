import Core
import TestSupport

/// Something wrong that any message can have.
struct PacketVariant {
    typealias Request = VhostUserClient.Request

    let name: String
    let family: Family
    /// Also tried with messages that are not on offer.
    var isBrief = false
    /// Nothing but closing the connection is right, and needs no acknowledgements.
    var mustClose = false
    var expectation: (Request) -> Expectation = { _ in .refused }
    /// What becomes of a good packet; `nil` where the variant does not apply.
    let change: (Packet, Request) throws -> Packet?

    static var all: [PacketVariant] { framing + sizes + descriptors }

    // MARK: Headers and streams

    private static var framing: [PacketVariant] {
        [1, 11].map { count in
            .init(name: "cut-after-\(count)", family: .framing, isBrief: true, mustClose: true) {
                packet, _ in
                with(packet) { $0.delivery = .cut(count) }
            }
        } + [
            .init(name: "cut-in-payload", family: .framing, mustClose: true) { packet, _ in
                packet.payload.isEmpty
                    ? nil : with(packet) { $0.delivery = .cut(12 + packet.payload.count / 2) }
            },
            flags("version-0", 0), flags("version-2", 2), flags("version-3", 3),
            flags("reply-bit", 5),
            flags("unknown-flags", 0xffff_fff1, .survived),
        ]
    }

    private static func flags(
        _ name: String, _ flags: UInt32, _ expectation: Expectation = .refused
    ) -> PacketVariant {
        .init(name: name, family: .framing, expectation: { _ in expectation }) { packet, _ in
            with(packet) { $0.flags = flags }
        }
    }

    // MARK: Sizes

    private static var sizes: [PacketVariant] {
        [
            payload("size-0") { $0.isEmpty ? nil : [] },
            payload("size-half") { $0.isEmpty ? nil : Array($0.prefix($0.count / 2)) },
            payload("size-1-short") { $0.isEmpty ? nil : Array($0.dropLast()) },
            payload("size-1-long") { $0 + [0] },
            payload("size-8-long") { $0 + [UInt8](repeating: 0, count: 8) },
            payload("size-4000") { $0 + [UInt8](repeating: 0, count: 4000 - $0.count) },
            announced("size-0x100000", 0x10_0000), announced("size-0x80000000", 0x8000_0000),
            announced("size-0xffffffff", .max),
        ]
    }

    private static func payload(
        _ name: String, _ change: @escaping ([UInt8]) -> [UInt8]?
    ) -> PacketVariant {
        .init(name: name, family: .size, isBrief: true, expectation: tolerance(name)) {
            packet, _ in
            guard let payload = change(packet.payload) else { return nil }
            return with(packet) { $0.payload = payload }
        }
    }

    /// Memory tables may be sent in full and what is in flight without the padding of C's
    /// structures; a crypto session has no size that is known here.
    private static func tolerance(_ name: String) -> (Request) -> Expectation {
        { request in
            switch request {
            case .setMemoryTable where name == "size-8-long" || name == "size-1-long": .survived
            case .getInflight where name == "size-1-short",
                .setInflight where name == "size-1-short":
                .survived
            case .createCryptoSession: .survived
            default: .refused
            }
        }
    }

    /// A size that no message has, without that many bytes.
    private static func announced(_ name: String, _ size: UInt32) -> PacketVariant {
        .init(name: name, family: .size, isBrief: true, mustClose: true) { packet, _ in
            with(packet) { $0.size = size }
        }
    }

    // MARK: Descriptors

    private static var descriptors: [PacketVariant] {
        [
            .init(name: "no-descriptors", family: .descriptors) { packet, _ in
                packet.fds.isEmpty ? nil : with(packet) { $0.fds = [] }
            },
            .init(name: "1-descriptor-less", family: .descriptors) { packet, _ in
                packet.fds.count < 2 ? nil : with(packet) { $0.fds.removeLast() }
            },
            extra("1-descriptor-more", 1), extra("9-descriptors-more", 9),
            extra("64-descriptors", 64),
            .init(
                name: "64-descriptors-per-byte", family: .descriptors,
                expectation: { _ in .survived }
            ) { packet, _ in
                try with(packet) {
                    $0.fds = Array(repeating: try EventFD().fd, count: 64)
                    $0.delivery = .floodOfDescriptors
                }
            },
            wrongKind("pipe", Descriptors.pipe), wrongKind("null-device", Descriptors.null),
            wrongKind("memory-of-no-bytes") { try Descriptors.memory(0) },
        ]
    }

    /// More than belong to the message: the specification does not say what then.
    private static func extra(_ name: String, _ count: Int) -> PacketVariant {
        .init(
            name: name, family: .descriptors, isBrief: true,
            expectation: { $0 == .setMemoryTable || $0 == .addRegion ? .refused : .survived }
        ) { packet, _ in
            let event = try EventFD().fd
            return with(packet) {
                $0.fds = Array(
                    ($0.fds + Array(repeating: event, count: count)).prefix(64))
            }
        }
    }

    /// What cannot be mapped must be refused where memory is wanted.
    private static func wrongKind(
        _ name: String, _ make: @escaping () throws -> SharedFD
    ) -> PacketVariant {
        let memory: [Request] = [.setMemoryTable, .addRegion, .setLogBase, .setInflight]
        return .init(
            name: name, family: .descriptors,
            expectation: { memory.contains($0) ? .refused : .survived }
        ) { packet, _ in
            guard !packet.fds.isEmpty else { return nil }
            let other = try make()
            return with(packet) { $0.fds = $0.fds.map { _ in other } }
        }
    }

    private static func with(
        _ packet: Packet, _ change: (inout Packet) throws -> Void
    ) rethrows -> Packet {
        var copy = packet
        try change(&copy)
        return copy
    }
}
