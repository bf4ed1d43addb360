internal import Core

/// The host's side of a port. It never waits; it belongs to the control thread.
protocol HostEnd: AnyObject {
    /// Somebody is there to read and write.
    var isConnected: Bool { get }
    /// The size of the terminal behind it, if it is one.
    var size: TerminalSize? { get }
    /// Whether input is asked for. What was not asked for stays where it comes from.
    var wantsInput: Bool { get set }
    var events: (any HostEvents)? { get set }

    /// Takes output.
    /// - Returns: how many bytes were taken; when it is fewer than there are, `canWrite` follows.
    func write(_ bytes: ArraySlice<UInt8>) -> Int
    /// Ends all connections: there is a new guest.
    func reset()

    /// Output that those who come late are shown.
    func savedOutput() -> [UInt8]
    /// Takes over what another process has shown.
    func restoreOutput(_ bytes: [UInt8])
}

/// Ends that keep nothing.
extension HostEnd {
    func savedOutput() -> [UInt8] { [] }
    func restoreOutput(_ bytes: [UInt8]) {}
}

/// Who hears of a host end.
protocol HostEvents: AnyObject {
    /// There is input, at least one byte.
    func received(_ bytes: [UInt8])
    func canWrite()
    func connectionChanged()
}

/// Nothing is behind the port.
final class NullEnd: HostEnd {
    let isConnected = true
    let size: TerminalSize? = nil
    var wantsInput = false
    weak var events: (any HostEvents)?

    func write(_ bytes: ArraySlice<UInt8>) -> Int { bytes.count }
    func reset() {}
}
