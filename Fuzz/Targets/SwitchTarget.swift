import Core
import TestSupport

@testable import NetworkBackend

/// Hostile peers at all ports of a switch.
struct SwitchTarget: FuzzTarget {
    static let name = "switch"
    static let about = "frames between the ports of a switch, and what is none"

    /// Three peers that greet each other.
    static let seeds: [[UInt8]] = [
        FuzzSeed.make { seed in
            seed.put(false)
            seed.choose(11, of: 40)
            for step in 0..<12 {
                seed.choose(step % 3, of: 3)
                seed.choose(0, of: 64)
                seed.choose(0, of: 8)
                seed.choose((step + 1) % 4, of: 6)
                seed.choose(step % 3, of: 6)
                seed.choose(46, of: 2000)
            }
        }
    ]
    static let testCount = 600

    private let folder: TestFolder
    private let listener: SharedFD
    private let stop: EventFD

    init() throws {
        folder = try TestFolder()
        listener = try LinkFiles.listener(folder["switch"])
        stop = try EventFD()
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        var settings = FrameSwitch.Settings()
        settings.portCount = 3
        settings.isIsolated = input.flag()
        let network = try FrameSwitch(settings, listener: listener)
        var peers: [UnixSocket?] = []
        for _ in 0..<3 {
            peers.append(try UnixSocket(connectingTo: folder["switch"]))
            _ = network.turn(until: stop, mayBlock: false)
        }
        var hasMoved = false
        for _ in 0..<(1 + input.below(40)) {
            let index = input.below(3)
            if let peer = peers[index] {
                if input.rarely(64) {
                    peers[index] = nil
                } else if !Self.send(Self.bytes(&input), by: peer) {
                    peers[index] = nil
                }
            } else {
                peers[index] = try UnixSocket(connectingTo: folder["switch"])
            }
            for _ in 0..<2 { _ = network.turn(until: stop, mayBlock: false) }
            for peer in peers { if let peer, try Self.read(peer) > 0 { hasMoved = true } }
        }
        return hasMoved
    }

    private static func bytes(_ input: inout FuzzInput) -> [UInt8] {
        if input.rarely(8) { return input.take(1 + input.below(64)) }
        func address(_ choice: Int) -> [UInt8] {
            choice == 0 ? [UInt8](repeating: 0xff, count: 6) : [2, 0, 0, 0, 0, UInt8(choice)]
        }
        let start = address(input.below(6)) + address(1 + input.below(6))
        let frame = start + [UInt8](repeating: 0x55, count: input.below(2000))
        return StreamFrames.packet(frame)
    }

    private static func send(_ bytes: [UInt8], by peer: UnixSocket) -> Bool {
        // Whoever was thrown out hears of it here.
        bytes.isEmpty || (try? peer.send(bytes)) != nil
    }

    /// Reads all that a peer got.
    /// - Returns: how many frames there were.
    private static func read(_ peer: UnixSocket) throws -> Int {
        var bytes: [UInt8] = []
        do {
            while let piece = try peer.receive(upTo: 65536), !piece.bytes.isEmpty {
                bytes += piece.bytes
            }
        } catch {
            try require(error.isConnectionReset, "\(error)")
            return 0
        }
        var frames = StreamFrames(bytes)
        var count = 0
        while let frame = frames.next() {
            try require(frame.count >= 14, "a frame of \(frame.count) bytes was passed on")
            count += 1
        }
        try require(frames.isEmpty, "a frame was passed on in part")
        return count
    }
}

/// Frames on a stream, each after its length.
struct StreamFrames {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { rest = bytes[...] }

    var isEmpty: Bool { rest.isEmpty }

    static func packet(_ frame: [UInt8]) -> [UInt8] {
        [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: frame.count >> $0) } + frame
    }

    mutating func next() -> [UInt8]? {
        let length = rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
        guard rest.count >= 4, rest.count - 4 >= length else { return nil }
        rest = rest.dropFirst(4)
        defer { rest = rest.dropFirst(length) }
        return Array(rest.prefix(length))
    }
}
