internal import Core
internal import VhostUser

/// Makes the up-link that the options name, and the queues' side of it.
struct LinkFactory {
    private let options: NetworkOptions
    private let files: [SharedFD]
    private let filter: SeccompFilter?
    private let limits: TrafficLimits

    init(_ options: NetworkOptions, _ files: LinkFiles, filter: SeccompFilter?) {
        self.options = options
        self.files = files.all
        self.filter = filter
        limits = TrafficLimits(options)
    }

    /// What the link can do for drivers.
    var features: UInt64 {
        switch options.link {
        case .tap, .inheritedTap(_, true): TapLink.features(of: files[0])
        // What is left to the device is done here.
        default:
            NetworkFeature.checksum | NetworkFeature.guestChecksum | NetworkFeature.hostTSO4
                | NetworkFeature.hostTSO6 | NetworkFeature.hostECN | NetworkFeature.hostUSO
        }
    }

    /// - Parameter onLinkChange: called by the first pair's thread.
    func makePairs(
        onLinkChange: @escaping @Sendable (Bool) -> Void
    ) throws -> [any QueuePair] {
        func pair(_ link: any UpLink, folder: SharedFD? = nil) throws -> [any QueuePair] {
            [
                try LinkedPair(
                    link, index: 0, folder: folder, filter: filter, limits: limits,
                    polling: polling, onLinkChange: onLinkChange)
            ]
        }
        switch options.link {
        case .none: return try pair(NoLink())
        case .stream(let path, .client):
            return try pair(
                StreamLink(.connect(name: LinkFiles.name(of: path))), folder: files[0])
        case .stream(_, .server): return try pair(StreamLink(.accept(files[0])))
        case .datagram(_, let remote):
            let link = DatagramLink(
                files[0], to: .name(LinkFiles.name(of: remote)), mtu: mtu)
            return try pair(link, folder: files[1])
        case .inherited where try LinkFiles.isDatagram(files[0]):
            return try pair(DatagramLink(files[0], to: .peer, mtu: mtu))
        case .inherited, .user: return try pair(HeldStreamLink(files[0]))
        case .tap, .inheritedTap: return try tapPairs(onLinkChange)
        }
    }

    private func tapPairs(
        _ onLinkChange: @escaping @Sendable (Bool) -> Void
    ) throws -> [any QueuePair] {
        // One interface is enough to tell of.
        @Sendable func ignore(_ isUp: Bool) {}
        var pairs: [any QueuePair] = []
        for (index, file) in files.enumerated() {
            let pair = try LinkedPair(
                TapLink(file, mtu: mtu), index: index, folder: nil, filter: filter,
                limits: limits, polling: polling,
                onLinkChange: pairs.isEmpty ? onLinkChange : ignore)
            pairs.append(pair)
        }
        return pairs
    }

    private var polling: IdlePolling { IdlePolling(microseconds: options.pollMicroseconds) }
    private var mtu: UInt64 { options.mtu.map { UInt64($0) } ?? FrameLimit.usualMTU }
}
