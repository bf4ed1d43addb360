package import Accelerator
internal import Synchronization

/// A function's MSI-X vectors: the table, the pending bits and the capability's control bits (PCI
/// Local Bus 3.0, section 6.8.2).
///
/// A vector that is masked, alone or with all others, remembers that it was triggered and is sent
/// when it is unmasked.
package final class MSIXTable: Sendable {
    package static let capabilityID: UInt8 = 0x11
    package static let maximumVectorCount = 2048
    /// The capability's message control: enable and function mask.
    static let enable: UInt16 = 1 << 15
    static let functionMask: UInt16 = 1 << 14

    private struct Vector {
        var address: UInt64 = 0
        var data: UInt32 = 0
        var isMasked = true
        var isPending = false
    }

    private struct State {
        var isEnabled = false
        var isFunctionMasked = false
        var vectors: [Vector]

        func message(_ index: Int) -> MSIMessage? {
            let vector = vectors[index]
            guard isEnabled, !isFunctionMasked, !vector.isMasked else { return nil }
            return MSIMessage(address: vector.address, data: vector.data)
        }

        /// The message of a vector that is due.
        mutating func takePending(_ index: Int) -> MSIMessage? {
            guard vectors[index].isPending, let message = message(index) else { return nil }
            vectors[index].isPending = false
            return message
        }
    }

    package let vectorCount: Int
    private let machine: any VirtualMachine
    private let state: Mutex<State>

    /// - Parameter vectorCount: 1-2048.
    package init(vectorCount: Int, machine: any VirtualMachine) {
        precondition((1...Self.maximumVectorCount).contains(vectorCount), "1 to 2048 vectors")
        self.vectorCount = vectorCount
        self.machine = machine
        state = Mutex(State(vectors: Array(repeating: Vector(), count: vectorCount)))
    }

    /// Bytes of the table and of the pending bit array.
    var tableSize: UInt64 { UInt64(vectorCount) * 16 }
    var pendingSize: UInt64 { UInt64((vectorCount + 63) / 64) * 8 }

    /// The capability's bytes after its header, and which the guest may write.
    func capability(
        tableBAR: Int, tableOffset: UInt32, pendingBAR: Int, pendingOffset: UInt32
    ) -> (body: [UInt8], mask: [UInt8]) {
        let control = UInt16(vectorCount - 1)
        var body: [UInt8] = []
        body.appendLittleEndian(control)
        body.appendLittleEndian(tableOffset | UInt32(tableBAR))
        body.appendLittleEndian(pendingOffset | UInt32(pendingBAR))
        return (body, [0x00, 0xC0])
    }

    package func reset() {
        state.withLock { $0 = State(vectors: Array(repeating: Vector(), count: vectorCount)) }
    }

    /// Whether the guest has switched MSI-X on.
    package var isEnabled: Bool { state.withLock { $0.isEnabled } }

    /// The message that a vector sends at present; `nil` while it is masked or out of range.
    package func message(_ vector: Int) -> MSIMessage? {
        guard (0..<vectorCount).contains(vector) else { return nil }
        return state.withLock { $0.message(vector) }
    }

    /// Sends a vector's message, now or when it is unmasked. Any thread.
    package func trigger(_ vector: Int) {
        guard (0..<vectorCount).contains(vector) else { return }
        let message: MSIMessage? = state.withLock { state in
            guard state.isEnabled else { return nil }
            state.vectors[vector].isPending = true
            return state.takePending(vector)
        }
        send(message)
    }

    /// The guest has written the capability's message control.
    func setControl(_ control: UInt16) {
        let messages: [MSIMessage] = state.withLock { state in
            state.isEnabled = control & Self.enable != 0
            state.isFunctionMasked = control & Self.functionMask != 0
            return state.vectors.indices.compactMap { state.takePending($0) }
        }
        for message in messages { send(message) }
    }

    // MARK: Registers

    func readTable(offset: UInt64, size: Int) -> UInt64 {
        guard offset < tableSize else { return 0 }
        let low = offset & ~7
        let word = state.withLock { Self.word($0.vectors[Int(low / 16)], low & 8 != 0) }
        return (word >> (8 * (offset & 7))) & allOnes(size)
    }

    private static func word(_ vector: Vector, _ isSecond: Bool) -> UInt64 {
        isSecond ? UInt64(vector.data) | (vector.isMasked ? 1 << 32 : 0) : vector.address
    }

    /// Writes 4 or 8 aligned bytes; what other accesses do is undefined, so they do nothing.
    func writeTable(offset: UInt64, size: Int, _ value: UInt64) {
        guard offset < tableSize, size == 4 || size == 8, offset % UInt64(size) == 0 else { return }
        let index = Int(offset / 16)
        let message: MSIMessage? = state.withLock { state in
            let low = UInt32(truncatingIfNeeded: value)
            Self.set(&state.vectors[index], Int(offset & 0xF), low)
            if size == 8 {
                let high = UInt32(truncatingIfNeeded: value >> 32)
                Self.set(&state.vectors[index], Int(offset & 0xF) + 4, high)
            }
            return state.takePending(index)
        }
        send(message)
    }

    private static func set(_ vector: inout Vector, _ offset: Int, _ value: UInt32) {
        switch offset {
        case 0: vector.address = (vector.address & ~0xFFFF_FFFF) | UInt64(value & ~3)
        case 4: vector.address = (vector.address & 0xFFFF_FFFF) | UInt64(value) << 32
        case 8: vector.data = value
        default: vector.isMasked = value & 1 != 0
        }
    }

    func readPending(offset: UInt64, size: Int) -> UInt64 {
        guard offset < pendingSize else { return 0 }
        let first = Int(offset / 8) * 64
        let word: UInt64 = state.withLock { state in
            var word: UInt64 = 0
            for index in first..<min(first + 64, vectorCount) where state.vectors[index].isPending {
                word |= 1 << UInt64(index - first)
            }
            return word
        }
        return (word >> (8 * (offset & 7))) & allOnes(size)
    }

    private func send(_ message: MSIMessage?) {
        guard let message, message.isInterrupt else { return }
        machine.signalMSI(address: message.address, data: message.data)
    }
}
