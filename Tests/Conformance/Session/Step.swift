/// How far a connection has come when a case's message is sent.
enum Step: Int, CaseIterable, Comparable {
    /// Just connected.
    case connected
    /// Protocol features are agreed on.
    case negotiated
    /// SET_OWNER and SET_FEATURES have been sent.
    case owned
    /// The memory table is there.
    case memory
    /// All is said about the rings but when to start.
    case rings
    /// The rings are enabled, but not kicked yet.
    case enabled
    /// The rings have done I/O.
    case running
    /// Requests are under way.
    case busy
    /// The rings do I/O and note in shared memory what is in flight.
    case inflight
    /// The rings do I/O and note in a log what they write.
    case logged
    /// The rings have done I/O and were stopped.
    case suspended
    /// The device has done I/O and was reset.
    case reset

    static func < (a: Step, b: Step) -> Bool { a.rawValue < b.rawValue }

    var name: String { "\(self)" }

    /// Whether requests that the driver makes available are served.
    var isServing: Bool { self >= .running && self <= .logged }

    /// Whether a back end can be brought there.
    func isOffered(_ facts: Facts) -> Bool {
        switch self {
        case .inflight: facts.has(.inflight)
        case .logged: facts.has(.log) && facts.features & Facts.logAll != 0
        case .reset: facts.has(.resetDevice)
        default: true
        }
    }
}
