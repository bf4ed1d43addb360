package import Core
internal import VhostUser

let consoleLog = Log("console")

/// A console device with several ports (VIRTIO 1.3, section 5.3), served by the control thread.
package final class ConsoleDevice: VirtioDevice {
    private let ports: [ConsolePort]
    private let loop: EventLoop
    private let configChanged: () -> Void
    private let chain = DescriptorChain(capacity: 4)
    private var controlInput: LoopQueue?
    private var controlOutput: LoopQueue?
    /// For the guest, as soon as it has room.
    private var messages: [ConsoleMessage] = []
    private var accepted: UInt64 = 0
    private var size: TerminalSize?
    /// What the guest was told of each port's host end; `nil` before it has asked for the port.
    private var toldConnected: [Bool?]

    package let deviceID = VirtioDeviceID.console
    package let features =
        VirtioFeature.everyDevice | VirtioFeature.inOrder | ConsoleFeature.size
        | ConsoleFeature.multiport | ConsoleFeature.emergencyWrite

    /// - Parameter configChanged: to be called when the size has changed.
    init(_ ports: [ConsolePort], on loop: EventLoop, configChanged: @escaping () -> Void) {
        self.ports = ports
        self.loop = loop
        self.configChanged = configChanged
        toldConnected = ports.map { _ in nil }
        size = ports[0].end.size
        for (index, port) in ports.enumerated() {
            port.onChange = { [unowned self] in portChanged(index) }
        }
    }

    package var queueCount: Int { ConsoleQueue.count(ports: ports.count) }
    package func maximumQueueSize(_ queue: Int) -> UInt16 { 256 }

    package func readConfig(offset: Int, count: Int) -> [UInt8] {
        ConsoleConfig.space(size, ports: ports.count).read(offset: offset, count: count)
    }

    package func writeConfig(offset: Int, _ bytes: [UInt8]) {
        guard offset == ConsoleConfig.emergencyOffset, let byte = bytes.first else { return }
        ports[0].writeEmergency(byte)
    }

    package func setFeatures(_ features: UInt64) throws(VirtioDeviceError) { accepted = features }

    private var isMultiport: Bool { accepted & ConsoleFeature.multiport != 0 }

    // MARK: Queues

    package func startQueue(_ index: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        guard index >= 0, index < queueCount else {
            throw VirtioDeviceError("there is no queue \(index)")
        }
        switch ConsoleQueue(index) {
        case .input(let port): try ports[port].startInput(setup, index: index, on: loop)
        case .output(let port): try ports[port].startOutput(setup, index: index, on: loop)
        case .controlInput:
            controlInput = try LoopQueue(setup, index: index, on: loop) { [unowned self] in
                sendMessages()
            }
            // A guest that has talked to another process of ours does not begin again.
            if !setup.isFresh { tellConnections() }
        case .controlOutput:
            controlOutput = try LoopQueue(setup, index: index, on: loop) { [unowned self] in
                takeMessages()
            }
        }
    }

    package func stopQueue(_ index: Int) -> QueueState {
        guard index >= 0, index < queueCount else { return .freshSplit }
        let state: QueueState?
        switch ConsoleQueue(index) {
        case .input(let port): state = ports[port].stopInput()
        case .output(let port): state = ports[port].stopOutput()
        case .controlInput:
            state = controlInput?.stop()
            controlInput = nil
        case .controlOutput:
            state = controlOutput?.stop()
            controlOutput = nil
        }
        return state ?? .freshSplit
    }

    package func reset() {
        for index in 0..<queueCount { _ = stopQueue(index) }
        for port in ports { port.reset() }
        messages = []
        toldConnected = ports.map { _ in nil }
    }

    // MARK: In another process

    package let canSaveState = true

    package func saveState() -> [UInt8] {
        ConsoleState(
            ports: ports.map(\.state), toldConnected: toldConnected, messages: messages
        ).bytes
    }

    package func loadState(_ bytes: [UInt8]) throws(VirtioDeviceError) {
        let state: ConsoleState
        do {
            state = try ConsoleState(bytes)
        } catch {
            throw VirtioDeviceError("\(error)")
        }
        guard state.ports.count == ports.count else {
            throw VirtioDeviceError("it has \(state.ports.count) ports, not \(ports.count)")
        }
        toldConnected = state.toldConnected
        messages = state.messages
        for (port, saved) in zip(ports, state.ports) { port.state = saved }
    }

    // MARK: Control

    private func takeMessages() {
        guard let controlOutput else { return }
        while controlOutput.pop(into: chain) {
            if let port: UInt32 = chain.read(at: 0, as: UInt32.self),
                let event: UInt16 = chain.read(at: 4, as: UInt16.self),
                let value: UInt16 = chain.read(at: 6, as: UInt16.self)
            {
                handle(ConsoleMessage(port: port, event: event, value: value))
            }
            controlOutput.push(chain, written: 0)
        }
        controlOutput.publish()
        sendMessages()
    }

    private func handle(_ message: ConsoleMessage) {
        if message.event == ConsoleEvent.deviceReady {
            guard message.value == 1 else { return }
            for index in ports.indices {
                post(ConsoleMessage(port: UInt32(index), event: ConsoleEvent.deviceAdd))
            }
            return
        }
        guard let index = Int(exactly: message.port), ports.indices.contains(index) else { return }
        switch message.event {
        case ConsoleEvent.portReady where message.value == 1: introduce(index)
        case ConsoleEvent.portOpen:
            ports[index].isOpenInGuest = message.value == 1
            // It has the port, even if it was introduced by another process of ours.
            if toldConnected[index] == nil { tellAnew(index) }
        default: break
        }
    }

    /// The guest has a port's queues ready.
    private func introduce(_ index: Int) {
        let port = ports[index]
        let number = UInt32(index)
        port.isOpenInGuest = false
        if port.options.isConsole {
            post(ConsoleMessage(port: number, event: ConsoleEvent.consolePort))
            postSize(index)
        }
        if !port.options.name.isEmpty {
            post(
                ConsoleMessage(
                    port: number, event: ConsoleEvent.portName,
                    rest: Array(port.options.name.utf8)))
        }
        toldConnected[index] = false
        tellConnection(index)
    }

    private func portChanged(_ index: Int) {
        tellConnection(index)
        let now = ports[index].end.size
        if index == 0, now != size {
            size = now
            configChanged()
            if toldConnected[index] != nil { postSize(index) }
        }
        sendMessages()
    }

    private func tellConnections() {
        for index in ports.indices {
            toldConnected[index] == nil ? tellAnew(index) : tellConnection(index)
        }
    }

    private func tellAnew(_ index: Int) {
        toldConnected[index] = !isConnected(index)
        tellConnection(index)
        postSize(index)
    }

    /// Tells a terminal's size as it is now, not one that the guest has not taken yet.
    private func postSize(_ index: Int) {
        guard ports[index].options.isConsole, let size = ports[index].end.size else { return }
        postLatest(.resize(UInt32(index), size))
    }

    private func tellConnection(_ index: Int) {
        let now = isConnected(index)
        guard isMultiport, let told = toldConnected[index], told != now else { return }
        toldConnected[index] = now
        postLatest(
            ConsoleMessage(port: UInt32(index), event: ConsoleEvent.portOpen, value: now ? 1 : 0))
    }

    /// Posts in the place of what the guest has not taken yet.
    private func postLatest(_ message: ConsoleMessage) {
        messages.removeAll { $0.port == message.port && $0.event == message.event }
        post(message)
    }

    /// A terminal is always there, whoever looks at it.
    private func isConnected(_ index: Int) -> Bool {
        ports[index].options.isConsole || ports[index].end.isConnected
    }

    /// A guest that asks again and again without taking answers gets each only once.
    private func post(_ message: ConsoleMessage) {
        guard isMultiport, !messages.contains(message) else { return }
        messages.append(message)
    }

    private func sendMessages() {
        guard let controlInput else { return }
        while let message = messages.first, controlInput.pop(into: chain) {
            messages.removeFirst()
            let count = chain.write(at: 0, message.bytes)
            controlInput.push(chain, written: UInt32(truncatingIfNeeded: count))
        }
        controlInput.publish()
    }
}
