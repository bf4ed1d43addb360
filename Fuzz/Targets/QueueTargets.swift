/// Split rings full of garbage.
struct SplitQueueTarget: FuzzTarget {
    static let name = "queue-split"
    static let about = "split virtqueues: rings, tables, changes while they are read"
    static let seeds = QueueRig.seeds(isPacked: false)
    private let rig: QueueRig

    init() throws { rig = try QueueRig() }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        try rig.run(&input, isPacked: false)
    }
}

/// Packed rings full of garbage.
struct PackedQueueTarget: FuzzTarget {
    static let name = "queue-packed"
    static let about = "packed virtqueues: rings, tables, changes while they are read"
    static let seeds = QueueRig.seeds(isPacked: true)
    private let rig: QueueRig

    init() throws { rig = try QueueRig() }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        try rig.run(&input, isPacked: true)
    }
}
