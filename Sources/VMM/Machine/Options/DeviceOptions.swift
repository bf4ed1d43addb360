package import Core
package import VhostUser

/// A device that a backend serves.
package struct DeviceOptions: Equatable, Sendable {
    package var id: VirtioDeviceID
    /// What messages call it: `disk 'root.img'`.
    package var title: String
    package var source: Source
    /// `nil` if it stays for as long as the machine.
    package var slot: Slot?

    /// A device that can come and go: in a slot of its own.
    package struct Slot: Equatable, Sendable {
        /// What the monitor's commands call it.
        package var id: String
        /// It is there from the start.
        package var isPlugged: Bool
    }

    /// Who serves it.
    package enum Source: Equatable, Sendable {
        /// A process of our own.
        case child(Child)
        /// A process that listens on a Unix socket. If it is not to say what its configuration space
        /// is, that is made of options of a kind of ours.
        case socket(path: String, configured: Child?)
    }

    /// What a process of our own is started with.
    package struct Child: Equatable, Sendable {
        package var kind: BackendKind
        package var values: OptionValues
        /// It does requests one after the other, so that runs can repeat.
        package var isInOrder = false

        /// It is to have the user's terminal.
        var usesTerminal: Bool { kind.terminal?.isWanted(values) ?? false }

        /// The most entries in a queue, if the user said so.
        var queueSize: UInt16? {
            values.number(of: "queue-size").flatMap { UInt16(exactly: $0) }
        }
    }

    /// It has memory that it shares with the guest, which only works on the first bus.
    var sharesMemory: Bool {
        if case .child(let child) = source {
            (child.values.number(of: "cache-size") ?? 0) > 0
        } else {
            false
        }
    }

    /// It never answers by itself, nor in another order than it was asked.
    package var isInOrder: Bool {
        if case .child(let child) = source { child.isInOrder } else { false }
    }

    /// A process of ours serves it.
    package var isOurs: Bool {
        if case .child = source { true } else { false }
    }

    /// Its process has the user's terminal, or what stands for it.
    var usesTerminal: Bool {
        if case .child(let child) = source { child.usesTerminal } else { false }
    }

    /// A device at a socket.
    package init(
        _ id: VirtioDeviceID, _ noun: String, socket path: String, configured: Child? = nil
    ) {
        self.id = id
        title = "\(noun) at socket '\(path)'"
        source = .socket(path: path, configured: configured)
    }

    /// A device that a process of our own serves.
    /// - Parameters:
    ///   - values: what the user said of it; nothing that is needed may be missing.
    ///   - mustBeInOrder: runs are to repeat.
    package init(
        _ kind: BackendKind, _ values: OptionValues, mustBeInOrder: Bool
    ) throws(OptionError) {
        var child = Child(kind: kind, values: values)
        if mustBeInOrder, let inOrder = kind.inOrder {
            child.isInOrder = true
            let order = inOrder(values)
            if !order.isEmpty {
                let text = [values.text, order].filter { !$0.isEmpty }.joined(separator: ",")
                child.values = try kind.schema.parse(text)
            }
        }
        try kind.check(child.values)
        if let missing = kind.missingConfigKey(child.values) {
            throw OptionError("key '\(missing)' is missing")
        }
        id = kind.deviceID
        title = kind.schema.leadingText(values).map { "\(kind.noun) '\($0)'" } ?? kind.noun
        source = .child(child)
    }
}
