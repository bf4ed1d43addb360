internal import Synchronization

/// Tells a queue's thread to end.
package final class StopSignal: Sendable {
    /// For threads that wait.
    package let event: EventFD
    private let isSent = Atomic<Bool>(false)
    private let abrupt = Atomic<Bool>(false)

    package init(_ event: EventFD) { self.event = event }

    /// - Parameter isAbrupt: whether requests are to be left unfinished.
    package func send(isAbrupt: Bool = false) {
        abrupt.store(isAbrupt, ordering: .releasing)
        isSent.store(true, ordering: .releasing)
        event.signal()
    }

    /// For threads that do not wait, and need not ask the kernel.
    package var isOn: Bool { isSent.load(ordering: .acquiring) }

    package var isAbrupt: Bool { abrupt.load(ordering: .acquiring) }
}
