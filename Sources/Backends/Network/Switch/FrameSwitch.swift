internal import CLinux
internal import Core
internal import Glibc

/// A switch of Ethernet: ports that come and go, and one up-link, port 0. One thread has it to itself.
///
/// Frames are read many at a time into one buffer, and go from there to where their addresses are,
/// those that follow each other to the same place with one call. A port that does not take them
/// holds up nobody (`SwitchPort`).
// SAFETY: `buffer` is a mapping that lives as long as this object; all that is read from it lies
// below the count of bytes that have come. `polled` has an entry for each port and two more.
@safe final class FrameSwitch {
    struct Settings {
        /// Besides the up-link.
        var portCount = 64
        /// Ports reach the up-link only, and keep the addresses that they were first to use.
        var isIsolated = false
        /// Ports of drivers whose queues are served here; they come after the others.
        var memoryPortCount = 0
        var pollMicroseconds = IdlePolling.usualMicroseconds
    }

    /// Where a frame goes: a port's number, or one of these.
    enum Target {
        static let nowhere = -1
        static let everywhere = -2
    }

    private static let upLink = 0
    private static let bufferSize = 1 << 18
    private static let ethernetHeader = 14

    private let settings: Settings
    private let listener: SharedFD?
    private var source: StreamSource
    private(set) var ports: [SwitchPort?]
    let memoryPorts: [(index: Int, port: MemoryPort)]
    private let addresses: AddressTable
    private let memory: MemoryMapping
    var buffer: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: memory.base, count: Self.bufferSize)
    }
    private let polled: UnsafeMutablePointer<pollfd>
    private(set) var now: UInt64 = 0
    private var seconds: UInt32 = 0
    /// A busy switch goes round so often before it asks the kernel what has happened.
    private static let busyTurns = 8
    /// Likewise while it has nothing but drivers' queues.
    private static let aloneTurns = 64
    private var turns = 0
    private var hasOthers = false
    var polling: IdlePolling
    /// Work is looked for without the kernel's help.
    var isSearching = false

    /// - Parameters:
    ///   - listener: where ports connect; it does not wait.
    ///   - source: where the up-link's connections come from, if it is a stream.
    ///   - tap: the up-link, if it is a tap interface.
    init(
        _ settings: Settings, listener: SharedFD?, source: StreamSource.Kind = .none,
        connected: SharedFD? = nil, tap: SharedFD? = nil
    ) throws(SystemError) {
        self.settings = settings
        self.listener = listener
        self.source = StreamSource(source)
        polling = IdlePolling(microseconds: settings.pollMicroseconds)
        let first = settings.portCount + 1
        memoryPorts = (0..<settings.memoryPortCount).map { (first + $0, MemoryPort()) }
        ports = [SwitchPort?](repeating: nil, count: first + settings.memoryPortCount)
        for (index, memory) in memoryPorts {
            ports[index] = try SwitchPort(.memory(memory), number: index)
        }
        var shares = [Int](repeating: AddressTable.portShare, count: ports.count)
        shares[Self.upLink] = AddressTable.networkShare
        addresses = try AddressTable(shares: shares, keepsOwners: settings.isIsolated)
        memory = try MemoryMapping(anonymous: Self.bufferSize)
        unsafe polled = .allocate(capacity: ports.count + 2)
        if let tap {
            _ = clinux_tap_header_size(tap.rawValue, Int32(SwitchPort.tapHeaderSize))
            _ = clinux_tap_offloads(tap.rawValue, 0)
        }
        ports[Self.upLink] = try SwitchPort(
            tap == nil ? .stream : .tap, number: Self.upLink, tap ?? connected)
    }

    deinit { unsafe polled.deallocate() }

    // MARK: Waiting

    /// Serves until the stop signal.
    func run(until stop: EventFD) { while turn(until: stop) {} }

    /// Waits until there is something to do, and does it.
    /// - Returns: false after the stop signal.
    func turn(until stop: EventFD, mayBlock: Bool = true) -> Bool {
        if serveMemoryPorts() {
            if isSearching { polling.found() }
            isSearching = false
            turns += 1
            return turns < (hasOthers ? Self.busyTurns : Self.aloneTurns) || look(stop, waiting: 0)
        }
        return look(stop, waiting: mayBlock ? search() : 0)
    }

    /// Asks the kernel what has happened, and sees to that.
    private func look(_ stop: EventFD, waiting milliseconds: Int32) -> Bool {
        turns = 0
        let count = listEvents(stop)
        let found = unsafe poll(polled, nfds_t(count), milliseconds)
        guard found >= 0 || errno == EINTR else { return true }
        if milliseconds != 0 { polling.endSleep() }
        if found > 0 {
            if isSearching { polling.found() }
            isSearching = false
        }
        now = Clock.monotonic()
        seconds = UInt32(truncatingIfNeeded: now / 1_000_000_000)
        if unsafe polled[0].revents != 0 { return false }
        if unsafe polled[1].revents != 0 { accept() }
        for index in 0..<count - 2 { serve(index, Int32(unsafe polled[index + 2].revents)) }
        return true
    }

    /// - Returns: how many there are.
    private func listEvents(_ stop: EventFD) -> Int {
        func put(_ place: Int, _ fd: Int32, _ events: Int32) {
            unsafe (polled + place).initialize(
                to: pollfd(fd: fd, events: Int16(events), revents: 0))
        }
        hasOthers = ports.contains { $0.map { $0.fd >= 0 } ?? false }
        let hasRoom = ports[..<(settings.portCount + 1)].contains { $0?.isConnected != true }
        put(0, stop.rawValue, POLLIN)
        put(1, hasRoom ? listener?.rawValue ?? -1 : -1, POLLIN)
        for (index, port) in ports.enumerated() {
            let isWaiting = port?.wantsToWrite == true
            put(index + 2, port?.fd ?? -1, isWaiting ? POLLIN | POLLOUT : POLLIN)
        }
        if ports[Self.upLink]?.isConnected != true { put(2, source.fd, POLLIN) }
        for (index, memory) in memoryPorts {
            put(index + 2, isSearching ? -1 : kick(memory)?.rawValue ?? -1, POLLIN)
        }
        return ports.count + 2
    }

    var timeout: Int32 {
        guard ports[Self.upLink]?.isConnected != true, let deadline = source.deadline else {
            return -1
        }
        return Clock.milliseconds(until: deadline)
    }

    // MARK: Ports

    private func accept() {
        guard let listener,
            let index = (1..<settings.portCount + 1).first(where: {
                ports[$0]?.isConnected != true
            })
        else { return }
        let new = clinux_accept(listener.rawValue)
        guard new >= 0 else { return }
        let socket = SharedFD(owning: new)
        _ = clinux_set_nonblocking(new)
        do {
            let port = try ports[index] ?? SwitchPort(.stream, number: index)
            ports[index] = port
            port.connect(socket)
            networkLog(.info, "port \(index) is taken")
        } catch {
            networkLog(.warning, "a port cannot be served: \(error)")
        }
    }

    /// The device of a port has stopped.
    func forget(_ memory: MemoryPort) {
        for (index, port) in memoryPorts where port === memory { addresses.forget(index) }
    }

    private func close(_ index: Int) {
        guard let port = ports[index], port.isConnected else { return }
        port.disconnect()
        addresses.forget(index)
        guard index == Self.upLink else { return }
        if port.isTap {
            networkLog(.error, "the tap interface has been removed; the up-link is lost")
        } else {
            source.disconnected()
        }
    }

    private func serve(_ index: Int, _ events: Int32) {
        guard let port = ports[index] else { return }
        if let memory = port.memory {
            if events != 0 { kick(memory)?.drain() }
            return
        }
        guard port.isConnected else {
            if index == Self.upLink, let new = source.next(isReadable: events != 0) {
                port.connect(new)
                networkLog(.info, "the up-link is connected")
            }
            return
        }
        if events & POLLOUT != 0, !port.flush() { return close(index) }
        if events & ~POLLOUT != 0 { receive(index, port) }
    }

    // MARK: Frames

    private func receive(_ index: Int, _ port: SwitchPort) {
        guard let count = unsafe port.receive(into: buffer) else { return close(index) }
        guard count > 0 else { return }
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: buffer[..<count])
        var start = 0
        var run = (target: Target.nowhere, start: 0, end: 0)
        while count - start >= SwitchPort.prefixSize {
            let length = unsafe UInt32(
                bigEndian: bytes.loadUnaligned(fromByteOffset: start, as: UInt32.self))
            guard UInt64(length) <= FrameLimit.maximum else {
                networkLog.guest("port \(index) sends a frame of \(length) bytes")
                unsafe send(bytes, run, from: index)
                return close(index)
            }
            let end = start + SwitchPort.prefixSize + Int(length)
            guard end <= count else { break }
            let frame = unsafe UnsafeRawBufferPointer(
                rebasing: bytes[start + SwitchPort.prefixSize..<end])
            let target = unsafe target(of: frame, from: index, port)
            if target != run.target {
                unsafe send(bytes, run, from: index)
                run = (target, start, end)
            }
            run.end = end
            start = end
        }
        unsafe send(bytes, run, from: index)
        unsafe port.keep(UnsafeRawBufferPointer(rebasing: bytes[start...]))
    }

    private func target(
        of frame: UnsafeRawBufferPointer, from index: Int, _ port: SwitchPort
    ) -> Int {
        guard frame.count >= Self.ethernetHeader else { return Target.nowhere }
        // The first two bytes of what follows an address are not part of it.
        let destination =
            unsafe UInt64(bigEndian: frame.loadUnaligned(as: UInt64.self)) >> 16
        let origin =
            unsafe UInt64(bigEndian: frame.loadUnaligned(fromByteOffset: 6, as: UInt64.self)) >> 16
        return target(destination, origin, from: index, port)
    }

    /// Where a frame between two addresses goes.
    func target(
        _ destination: UInt64, _ origin: UInt64, from index: Int, _ port: SwitchPort
    ) -> Int {
        port.countReceived()
        guard origin != 0, !Self.isGroup(origin),
            addresses.learn(origin, at: index, seconds) == .known
        else { return Target.nowhere }
        if Self.isGroup(destination) {
            // Some are for bridges themselves (IEEE 802.1Q, 8.6.3).
            if destination & ~0xf == 0x0180_c200_0000 { return Target.nowhere }
        } else if settings.isIsolated, index != Self.upLink {
            return Self.upLink
        } else if let known = addresses.port(of: destination, at: seconds) {
            return known == index ? Target.nowhere : known
        }
        return port.mayFlood(at: now) ? Target.everywhere : Target.nowhere
    }

    private static func isGroup(_ address: UInt64) -> Bool { address >> 40 & 1 != 0 }

    func send(
        _ bytes: UnsafeRawBufferPointer, _ run: (target: Int, start: Int, end: Int),
        from origin: Int
    ) {
        guard run.target != Target.nowhere, run.end > run.start else { return }
        let frames = unsafe UnsafeRawBufferPointer(rebasing: bytes[run.start..<run.end])
        guard run.target == Target.everywhere else { return unsafe send(frames, to: run.target) }
        let toAll = origin == Self.upLink || !settings.isIsolated
        for index in 0..<(toAll ? ports.count : 1) where index != origin {
            unsafe send(frames, to: index)
        }
    }

    private func send(_ frames: UnsafeRawBufferPointer, to index: Int) {
        guard let port = ports[index], port.isConnected else { return }
        if unsafe !port.send(frames) { close(index) }
    }
}
