internal import Core
internal import VhostUser

/// A port: its two queues and its host end. Nothing is copied ahead but one read of input, so a side
/// that does not take what it is given holds up the other.
final class ConsolePort: HostEvents {
    let options: ConsoleOptions.Port
    let end: any HostEnd
    /// Called when the host end's connection or size may have changed.
    var onChange: (() -> Void)?

    private let inputChain = DescriptorChain(capacity: 4)
    private let outputChain = DescriptorChain(capacity: 4)
    private var input: LoopQueue?
    private var output: LoopQueue?
    /// Input that the guest's buffer had no room for.
    private var pendingInput: ArraySlice<UInt8> = []
    /// Output of `outputChain` that the host end has not taken yet.
    private var pendingOutput: ArraySlice<UInt8> = []
    private var hasOutputChain = false
    /// Output of a chain that was in hand when the queue was stopped.
    private var carriedOutput: ArraySlice<UInt8> = []

    /// A program of the guest has the port open, or may have: known only from the time at which
    /// the guest first says so.
    var isOpenInGuest = true {
        didSet { updateInput() }
    }

    /// The most that is kept of a chain when its queue is stopped.
    private static let carriedLimit: UInt64 = 1 << 20
    /// The most that is copied from a buffer of the guest at a time.
    private static let portion: UInt64 = 64 << 10

    init(_ options: ConsoleOptions.Port, _ end: any HostEnd) {
        self.options = options
        self.end = end
        end.events = self
    }

    // MARK: Queues

    func startInput(_ setup: QueueSetup, index: Int, on loop: EventLoop) throws(VirtioDeviceError) {
        input = try LoopQueue(setup, index: index, on: loop) { [unowned self] in deliver() }
    }

    func startOutput(
        _ setup: QueueSetup, index: Int, on loop: EventLoop
    ) throws(VirtioDeviceError) {
        output = try LoopQueue(setup, index: index, on: loop) { [unowned self] in takeOutput() }
    }

    func stopInput() -> QueueState? {
        end.wantsInput = false
        defer { input = nil }
        return input?.stop()
    }

    func stopOutput() -> QueueState? {
        if hasOutputChain {
            let rest = min(outputChain.readableLength - outputOffset, Self.carriedLimit)
            carriedOutput +=
                pendingOutput + outputChain.readBytes(at: outputOffset, count: Int(rest))
            finishOutput()
        }
        defer { output = nil }
        return output?.stop()
    }

    func reset() {
        pendingInput = []
        carriedOutput = []
        isOpenInGuest = false
        end.reset()
    }

    // MARK: In another process

    var state: ConsoleState.Port {
        get {
            ConsoleState.Port(
                isOpenInGuest: isOpenInGuest, input: Array(pendingInput),
                output: Array(carriedOutput), shown: end.savedOutput())
        }
        set {
            pendingInput = newValue.input[...]
            carriedOutput = newValue.output[...]
            end.restoreOutput(newValue.shown)
            isOpenInGuest = newValue.isOpenInGuest
            takeOutput()
        }
    }

    // MARK: To the guest

    func received(_ bytes: [UInt8]) {
        pendingInput += bytes
        deliver()
        if end.size != nil { onChange?() }
    }

    private func deliver() {
        guard let input else { return }
        while !pendingInput.isEmpty, input.pop(into: inputChain) {
            let count = inputChain.write(at: 0, Array(pendingInput))
            pendingInput = pendingInput.dropFirst(count)
            input.push(inputChain, written: UInt32(truncatingIfNeeded: count))
        }
        if pendingInput.isEmpty { pendingInput = [] }
        input.publish()
        updateInput()
    }

    /// Input that nobody in the guest waits for, or has given room for, stays where it comes from:
    /// there it outlives this process.
    private func updateInput() {
        end.wantsInput =
            pendingInput.isEmpty && (options.isConsole || isOpenInGuest)
            && input?.awaitNext() == true
    }

    // MARK: From the guest

    private func takeOutput() {
        if !carriedOutput.isEmpty {
            carriedOutput = carriedOutput.dropFirst(end.write(carriedOutput))
            guard carriedOutput.isEmpty else { return }
        }
        guard let output else { return }
        while hasOutputChain || output.pop(into: outputChain) {
            hasOutputChain = true
            guard writeOut() else { break }
            finishOutput()
        }
        output.publish()
    }

    /// - Returns: whether the host end has taken all of the chain.
    private func writeOut() -> Bool {
        while true {
            if pendingOutput.isEmpty {
                let part = min(outputChain.readableLength - outputOffset, Self.portion)
                if part == 0 { return true }
                pendingOutput = outputChain.readBytes(at: outputOffset, count: Int(part))[...]
                outputOffset += part
            }
            let count = end.write(pendingOutput)
            pendingOutput = pendingOutput.dropFirst(count)
            guard pendingOutput.isEmpty else { return false }
        }
    }

    /// How much of the chain has been copied.
    private var outputOffset: UInt64 = 0

    private func finishOutput() {
        hasOutputChain = false
        pendingOutput = []
        outputOffset = 0
        output?.push(outputChain, written: 0)
    }

    func canWrite() { takeOutput() }

    /// A character that did not come through a queue.
    func writeEmergency(_ byte: UInt8) { _ = end.write([byte][...]) }

    func connectionChanged() { onChange?() }
}
