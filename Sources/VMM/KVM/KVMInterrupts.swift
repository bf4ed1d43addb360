internal import CLinux
internal import Core
internal import Synchronization

/// A machine's interrupt routes: which message each of KVM's interrupt numbers (GSIs) stands for,
/// and which descriptors raise them (irqfd).
///
/// The first numbers belong to the I/O APIC. It is ours and sends messages, but KVM reports the
/// end of a level-triggered interrupt only if one of these routes carries its message, so they are
/// made from what is sent.
final class KVMInterrupts: Sendable {
    /// Numbers of the I/O APIC's pins; the split irqchip is made with as many.
    static let pinCount: UInt32 = 24
    /// Numbers that KVM offers (KVM_MAX_IRQ_ROUTES).
    private static let routeLimit = 4096
    private static let isLevel: UInt32 = 1 << 15

    private struct Message: Equatable {
        var address: UInt64
        var data: UInt32
    }

    private struct State {
        /// By number; the first `pinCount` are level-triggered messages seen lately.
        var routes: [Message?] = Array(repeating: nil, count: Int(pinCount))
        var nextPin = 0
        /// The number of each bound descriptor.
        var bound: [Int32: Int] = [:]
    }

    private let vm: SharedFD
    private let state = Mutex(State())

    init(_ vm: SharedFD) { self.vm = vm }

    /// Delivers a message now.
    func signal(address: UInt64, data: UInt32) {
        if data & Self.isLevel != 0 { expectEnd(Message(address: address, data: data)) }
        var msi = kvm_msi()
        msi.address_lo = UInt32(truncatingIfNeeded: address)
        msi.address_hi = UInt32(truncatingIfNeeded: address >> 32)
        msi.data = data
        // A message to a CPU that is not there or not on is lost, as on the bus.
        // SAFETY: the structure lives for the call.
        unsafe withUnsafeMutablePointer(to: &msi) {
            _ = kvm(vm.rawValue, CLINUX_KVM_SIGNAL_MSI, UInt(bitPattern: $0))
        }
    }

    /// Makes KVM report the end of this level-triggered interrupt.
    private func expectEnd(_ message: Message) {
        state.withLock { state in
            if state.routes.prefix(Int(Self.pinCount)).contains(message) { return }
            state.routes[state.nextPin] = message
            state.nextPin = (state.nextPin + 1) % Int(Self.pinCount)
            _ = try? publish(state)
        }
    }

    /// Lets `event` raise the message, without a thread of ours.
    /// - Returns: `false` if KVM refuses.
    func bind(_ event: EventFD, address: UInt64, data: UInt32) -> Bool {
        state.withLock { state in
            guard state.bound[event.rawValue] == nil else { return false }
            let first = Int(Self.pinCount)
            var number =
                state.routes.dropFirst(first).firstIndex { $0 == nil } ?? state.routes.count
            number = max(number, first)
            guard number < Self.routeLimit else { return false }
            if number == state.routes.count { state.routes.append(nil) }
            state.routes[number] = Message(address: address, data: data)
            do {
                try publish(state)
                try connect(event, number)
            } catch {
                state.routes[number] = nil
                return false
            }
            state.bound[event.rawValue] = number
            return true
        }
    }

    func unbind(_ event: EventFD) {
        state.withLock { state in
            guard let number = state.bound.removeValue(forKey: event.rawValue) else { return }
            try? connect(event, number, flags: KVM_IRQFD_FLAG_DEASSIGN)
            // The route goes with the next publication.
            state.routes[number] = nil
        }
    }

    private func connect(
        _ event: EventFD, _ number: Int, flags: Int32 = 0
    ) throws(SystemError) {
        var request = kvm_irqfd()
        request.fd = UInt32(bitPattern: event.rawValue)
        request.gsi = UInt32(number)
        request.flags = UInt32(flags)
        try kvmSet("KVM_IRQFD", vm.rawValue, CLINUX_KVM_IRQFD, request)
    }

    private func publish(_ state: State) throws(SystemError) {
        var entries: [kvm_irq_routing_entry] = []
        for (number, message) in state.routes.enumerated() {
            guard let message else { continue }
            var entry = kvm_irq_routing_entry()
            entry.gsi = UInt32(number)
            entry.type = UInt32(KVM_IRQ_ROUTING_MSI)
            // SAFETY: the type says that this is the part of the union which is valid.
            unsafe entry.u.msi.address_lo = UInt32(truncatingIfNeeded: message.address)
            unsafe entry.u.msi.address_hi = UInt32(truncatingIfNeeded: message.address >> 32)
            unsafe entry.u.msi.data = message.data
            entries.append(entry)
        }
        // SAFETY: the array has as many entries as are announced.
        let result = unsafe clinux_kvm_set_routing(vm.rawValue, entries, UInt32(entries.count))
        _ = try checking("KVM_SET_GSI_ROUTING", result)
    }
}
