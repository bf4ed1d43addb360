import Core
import TestSupport

/// All cases for a back end: messages x steps x what can be wrong with them.
struct CaseTable {
    private let facts: Facts
    private let kind: DeviceKind
    private let steps: [Step]
    private let variants = PacketVariant.all
    private(set) var cases: [Case] = []

    init(_ facts: Facts, _ kind: DeviceKind) throws {
        self.facts = facts
        self.kind = kind
        steps = Step.allCases.filter { $0.isOffered(facts) }
        // Nobody is at its other end; it shows what good packets look like.
        let sample = try Session(
            VhostUserClient(adopting: UnixSocket.pair().0.fd), facts, kind, isPacked: false,
            timeout: 0)
        for spec in MessageSpec.all { try add(spec, spec.valid(sample)) }
        for number in [0, 45, 1000, 0x7fff_ffff, UInt32.max] { addUnknown(number) }
        addSpecial()
    }

    // MARK: Messages of the specification

    private mutating func add(_ spec: MessageSpec, _ sample: Packet) throws {
        let isOffered = spec.need.isMet(facts)
        let values = kind.values(spec.request)
        let variants = try variants.filter {
            // What is not on offer needs less.
            try (isOffered || $0.isBrief) && $0.change(sample, spec.request) != nil
        }
        for step in steps {
            addValid(spec, step, isOffered)
            for variant in variants { add(variant, spec, step, isOffered) }
            for value in values {
                let isStrict =
                    isOffered && value.need.isMet(facts) && value.steps.contains(step)
                append(
                    spec, value.name, step, .values,
                    refusable(isStrict ? value.expectation : .survived, step), isOffered,
                    value.make)
            }
        }
    }

    /// Before acknowledgements are agreed on, a message that is ignored is as good as refused.
    private func refusable(_ expectation: Expectation, _ step: Step) -> Expectation {
        expectation == .refused && !hasAck(step) ? .survived : expectation
    }

    private func hasAck(_ step: Step) -> Bool { step >= .negotiated && facts.has(.replyAck) }

    private mutating func addValid(_ spec: MessageSpec, _ step: Step, _ isOffered: Bool) {
        let isLegal = isOffered && spec.legal.contains(step)
        let expectation = isLegal ? Expectation.accepted : .survived
        let family = isLegal || !isOffered ? Family.valid : .order
        for wantsAck in [false, true] where !wantsAck || hasAck(step) {
            append(
                spec, wantsAck ? "need-reply" : "plain", step, family, expectation, isOffered,
                spec.valid, wantsAck: wantsAck)
        }
        append(spec, "single-bytes", step, family, expectation, isOffered) {
            var packet = try spec.valid($0)
            packet.delivery = .bytewise
            return packet
        }
    }

    private mutating func add(
        _ variant: PacketVariant, _ spec: MessageSpec, _ step: Step, _ isOffered: Bool
    ) {
        let wanted = isOffered ? variant.expectation(spec.request) : .survived
        append(
            spec, variant.name, step, variant.family,
            variant.mustClose ? .refused : refusable(wanted, step), isOffered
        ) { session in
            let packet = try spec.valid(session)
            return try variant.change(packet, spec.request) ?? packet
        }
    }

    private mutating func append(
        _ spec: MessageSpec, _ variant: String, _ step: Step, _ family: Family,
        _ expectation: Expectation, _ isOffered: Bool,
        _ make: @escaping (Session) throws -> Packet, wantsAck: Bool? = nil
    ) {
        cases.append(
            Case(
                message: spec.name, variant: variant, step: step, family: family,
                expectation: expectation, isOffered: isOffered, reply: spec.reply,
                keepsRings: !spec.disturbs.contains(step),
                action: .send(
                    request: spec.request.rawValue, wantsAck: wantsAck ?? hasAck(step), make: make))
        )
    }

    // MARK: Others

    private mutating func addUnknown(_ number: UInt32) {
        for step in steps {
            for wantsAck in [false, true] where !wantsAck || hasAck(step) {
                for size in [0, 8] {
                    cases.append(
                        Case(
                            message: "unknown",
                            variant: "\(number)-size-\(size)"
                                + (wantsAck ? "-need-reply" : ""), step: step, family: .values,
                            expectation: wantsAck ? .refused : .survived, isOffered: true,
                            action: .send(request: number, wantsAck: wantsAck) { _ in
                                Packet([UInt8](repeating: 0, count: size))
                            }))
                }
            }
        }
    }

    private mutating func addSpecial() {
        for special in SpecialCase.allCases {
            for step in steps where special.isPossible(step, facts) {
                cases.append(
                    Case(
                        message: special.row, variant: special.name, step: step,
                        family: special.family, expectation: .accepted,
                        isOffered: special.isOffered(facts), action: .special(special)))
            }
        }
    }
}
