/// What is done to a connection or a process, apart from sending a message.
enum SpecialCase: Equatable {
    /// The front end goes away.
    case leave
    /// It sends no more, and waits for the back end to notice.
    case halfClose
    /// It sends many requests at once.
    case pipeline
    /// It stops the rings and starts them again, on the same connection.
    case resume
    /// It sets the device up again after a reset, on the same connection.
    case restart
    /// The back end is killed and started again.
    case kill
    /// The same with requests under way, which the next back end has to finish.
    case replay(Int)
    /// The back end gives its state to another one, which goes on with the rings.
    case handOver
    /// The back end is told to end.
    case terminate

    static let allCases: [SpecialCase] =
        [.leave, .halfClose, .pipeline, .resume, .restart, .kill, .terminate, .handOver]
        + (1...20).map { .replay($0) }

    var name: String {
        switch self {
        case .leave: "closed"
        case .halfClose: "half-closed"
        case .pipeline: "100-requests-at-once"
        case .resume: "stop-and-start"
        case .restart: "set-up-after-reset"
        case .kill: "killed"
        case .terminate: "SIGTERM"
        case .handOver: "state-handed-over"
        case .replay(let round): "killed-and-replayed-\(round)"
        }
    }

    /// The row of the table it belongs to.
    var row: String { concernsProcess ? "process" : "connection" }

    var concernsProcess: Bool {
        switch self {
        case .kill, .replay, .terminate, .handOver: true
        default: false
        }
    }

    var family: Family {
        switch self {
        case .pipeline, .resume, .restart: .valid
        default: .ends
        }
    }

    func isPossible(_ step: Step, _ facts: Facts) -> Bool {
        guard facts.canRestart || !concernsProcess else { return false }
        return switch self {
        case .resume: step == .running || step == .suspended || step == .inflight
        case .restart: step == .reset
        case .handOver: step == .suspended
        case .replay: step == (facts.has(.inflight) ? .inflight : .busy)
        default: true
        }
    }

    func isOffered(_ facts: Facts) -> Bool {
        switch self {
        case .replay: return facts.has(.inflight)
        case .handOver: return facts.has(.deviceState)
        default: return true
        }
    }
}
