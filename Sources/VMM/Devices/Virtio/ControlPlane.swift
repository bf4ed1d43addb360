package import Core
package import Synchronization

/// A device's control thread, as the device sees it: where everything happens that is neither a
/// register access nor a queue.
package protocol ControlPlane: AnyObject, Sendable {
    /// Runs `work` on the control thread and returns when it is done. On that thread itself it
    /// runs at once. vCPU threads call this in the middle of a register access and hold no lock;
    /// the control thread must never wait for a vCPU without going on to serve these calls.
    func perform(_ work: @escaping @Sendable () -> Void)

    /// Calls `handler` on the control thread whenever `event` has been signalled. The handler
    /// empties the event. Called on the control thread.
    func watch(_ event: EventFD, _ handler: @escaping @Sendable () -> Void)

    /// Ends a watch; the handler is not called any more. Called on the control thread.
    func unwatch(_ event: EventFD)
}

extension ControlPlane {
    /// Runs `work` on the control thread and returns its result.
    func call<Result: Sendable>(
        _ initial: Result, _ work: @escaping @Sendable () -> Result
    ) -> Result {
        let box = ResultBox(initial)
        perform { box.value.withLock { $0 = work() } }
        return box.value.withLock { $0 }
    }
}

/// Carries a result from one thread to another.
package final class ResultBox<Value: Sendable>: Sendable {
    package let value: Mutex<Value>

    package init(_ value: Value) { self.value = Mutex(value) }
}
