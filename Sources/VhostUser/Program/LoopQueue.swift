package import Core

/// A queue that the control thread serves on its event loop: for devices with so little to do that
/// threads of their own would cost more than they bring.
///
/// A driver that adds chains as fast as they are taken does not keep the thread: after as many as
/// the queue has entries `pop` says that there are no more, and the loop comes back to the queue
/// when it has served what else there is.
package final class LoopQueue {
    private static let log = Log("queue")

    private let queue: Virtqueue
    private let index: Int
    private let kick: EventFD
    private var kickWatch: EventRegistration?
    private var hasPushed = false
    /// Chains taken since `onKick` was last called.
    private var popCount: UInt16 = 0

    /// - Parameter onKick: the driver may have added something, also before this object was made.
    ///   Take what there is with `pop`, to the end.
    package init(
        _ setup: QueueSetup, index: Int, on loop: EventLoop, onKick: @escaping () -> Void
    ) throws(VirtioDeviceError) {
        guard let kick = setup.kick else {
            throw VirtioDeviceError("queue \(index) has no kick descriptor, and is not polled")
        }
        do {
            queue = try Virtqueue(setup)
        } catch {
            throw VirtioDeviceError("queue \(index): \(error)")
        }
        self.index = index
        self.kick = kick
        kickWatch = loop.watch(kick.rawValue, for: .readable) { [unowned self] _ in
            kick.drain()
            popCount = 0
            onKick()
        }
        kick.signalIfRoom()
    }

    /// Takes the next chain. When there is none, `onKick` is called once there may be more.
    package func pop(into chain: DescriptorChain) -> Bool {
        guard popCount < queue.size else {
            kick.signalIfRoom()
            return false
        }
        guard take(into: chain) else { return false }
        popCount += 1
        return true
    }

    /// Asks the driver for kicks if there is no chain to take; `onKick` is called once there may be.
    /// - Returns: whether there is one already.
    package func awaitNext() -> Bool { queue.enableNotifications() }

    private func take(into chain: DescriptorChain) -> Bool {
        do throws(QueueError) {
            if try queue.pop(into: chain) { return true }
            return queue.enableNotifications() ? try queue.pop(into: chain) : false
        } catch {
            // The queue has signalled `setup.error` and yields nothing more.
            Self.log.guest("queue \(index) stopped: \(error)")
            return false
        }
    }

    /// Gives a chain back; `publish` shows it.
    package func push(_ chain: DescriptorChain, written: UInt32) {
        queue.push(chain, written: written)
        hasPushed = true
    }

    /// Shows the driver what was given back, with at most one call.
    package func publish() {
        guard hasPushed else { return }
        hasPushed = false
        if queue.publish() { queue.setup.call?.signalIfRoom() }
    }

    /// Leaves what was taken and not given back in the ring, for whoever serves the queue next. For
    /// devices that give back in the order in which they take.
    package func rewind() {
        publish()
        queue.rewind()
    }

    /// Ends the service. What was taken has been given back, or left by `rewind`.
    package func stop() -> QueueState {
        kickWatch = nil
        publish()
        return queue.state
    }
}
