internal import Core

/// Does each operation at once, with an ordinary system call in the queue's own thread. The best
/// there is for images in memory, and the one that every host allows.
final class ThreadEngine: IOEngine {
    static let batch = 16

    private let image: RawImage
    private let waiter: EventWaiter
    private var done: CompletionFIFO
    private var signals: UInt32 = 0

    private static let kickTag: UInt32 = 0
    private static let stopTag: UInt32 = 1

    init(_ setup: IOEngineSetup) throws(BlockError) {
        image = setup.image
        done = CompletionFIFO(capacity: setup.slots)
        do throws(SystemError) {
            waiter = try EventWaiter()
            try waiter.add(setup.kick.rawValue, tag: Self.kickTag)
            try waiter.add(setup.stop.rawValue, tag: Self.stopTag)
        } catch {
            throw BlockError("cannot wait for requests: \(error)")
        }
    }

    func begin() {}

    func submit(_ operation: IOOperation, slot: UInt32) {
        done.append(slot: slot, result: SystemCalls.perform(operation, on: image))
    }

    func wait(mayBlock: Bool) {
        if done.count > 0 { return }
        signals |= waiter.wait(mayBlock: mayBlock)
    }

    func nextEvent() -> IOEvent? {
        if let event = done.next() { return event }
        if signals & (1 << Self.kickTag) != 0 {
            signals &= ~(1 << Self.kickTag)
            return .kick
        }
        if signals & (1 << Self.stopTag) != 0 {
            signals &= ~(1 << Self.stopTag)
            return .stop
        }
        return nil
    }
}
