import Core
import TestSupport
import Testing

@testable import NetworkBackend

/// A switch on a thread of its own, and where its ports connect.
final class SwitchRig {
    let folder: TestFolder
    private let thread: SwitchThread
    private let network: FrameSwitch

    /// - Parameter upLink: the far end of one; the switch has the near one.
    init(
        _ settings: FrameSwitch.Settings = .init(), upLink: UnixSocket? = nil,
        source: StreamSource.Kind = .none
    ) throws {
        folder = try TestFolder()
        let listener = try LinkFiles.listener(folder["switch"])
        network = try FrameSwitch(
            settings, listener: listener, source: source, connected: upLink?.fd)
        thread = try SwitchThread(network)
        try thread.start()
    }

    /// A device that is a port of the switch.
    /// - Parameter limits: options that limit it.
    func device(
        _ number: Int, features: UInt64 = NetworkRig.mergeable, limits: String = ""
    ) throws -> NetworkRig {
        let options = try NetworkOptions(NetworkOptions.schema.parse("none" + limits))
        network.memoryPorts[number].port.limits = TrafficLimits(options)
        return try NetworkRig(features: features) { loop, onChange in
            try NetworkDevice(
                options, features: SwitchedPair.features, on: loop, configChanged: onChange,
                makePairs: {
                    [SwitchedPair(network.memoryPorts[number].port, of: thread, onLinkChange: $0)]
                })
        }
    }

    /// A new port, which may not have been noticed yet.
    func connect() throws -> StreamPeer { try StreamPeer(path: folder["switch"]) }

    /// New ports that are there: they are taken in their order, and the last one has been heard.
    func connect(_ count: Int) throws -> [StreamPeer] {
        let peers = try (0..<count).map { _ in try connect() }
        let hello = frame(to: everybody, from: address(0xffff))
        try peers[count - 1].send(hello)
        for peer in peers.dropLast() { #expect(try peer.receive() == hello) }
        return peers
    }
}

/// Addresses that tests use; the first bit of all ones stands for everybody.
let everybody: UInt64 = 0xffff_ffff_ffff
func address(_ number: Int) -> UInt64 { 0x0200_0000_0000 + UInt64(number) }

/// A frame that says where it comes from.
func frame(to target: UInt64, from source: UInt64, _ number: Int = 0, size: Int = 60) -> [UInt8] {
    func bytes(_ address: UInt64) -> [UInt8] {
        (0..<6).map { UInt8(truncatingIfNeeded: address >> (40 - 8 * UInt64($0))) }
    }
    return bytes(target) + bytes(source) + [0x88, 0xb5]
        + [UInt8(truncatingIfNeeded: number >> 8), UInt8(truncatingIfNeeded: number)]
        + pattern(size - 16, seed: number)
}
