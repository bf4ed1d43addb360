import BenchmarkSupport
import Core
import Foundation
import TestSupport

/// QEMU's own network device. The guest does nothing: QEMU's test interface (`-qtest`) sets the device
/// up, a virtio-mmio one, whose queues lie in a file that both sides map. A kick is a line of text,
/// which takes longer than a guest's; a device that is busy needs none.
final class QEMUPort: NetworkPort {
    let scratch: ScratchMemory
    let receiving: DriverQueue
    let transmitting: DriverQueue
    private let qtest: QTest
    private let device: UInt64

    /// Registers (VIRTIO 1.3, section 4.2.2).
    private enum Register {
        static let deviceID: UInt64 = 0x008
        static let deviceFeatures: UInt64 = 0x010
        static let deviceFeaturesSelect: UInt64 = 0x014
        static let driverFeatures: UInt64 = 0x020
        static let driverFeaturesSelect: UInt64 = 0x024
        static let queueSelect: UInt64 = 0x030
        static let queueSize: UInt64 = 0x038
        static let queueReady: UInt64 = 0x044
        static let queueNotify: UInt64 = 0x050
        static let status: UInt64 = 0x070
        static let descriptors: UInt64 = 0x080
        static let driverArea: UInt64 = 0x090
        static let deviceArea: UInt64 = 0x0a0
    }

    /// Where `microvm` has its virtio-mmio devices.
    private static let slots = stride(from: 0xfeb0_0000 as UInt64, to: 0xfeb0_3000, by: 512)

    /// - Parameters:
    ///   - path: the socket of the test interface.
    ///   - memory: the file of the machine's memory.
    init(path: String, memory: String) throws {
        qtest = try QTest(path: path)
        let qtest = qtest
        let slot = try Self.slots.first { try qtest.read($0 + Register.deviceID) == 1 }
        guard let slot else { throw OptionError("QEMU has no network device") }
        device = slot
        scratch = try ScratchMemory(Self.map(memory))
        // Below are its BIOS and a kernel.
        _ = scratch.allocate(24 << 20)
        for status: UInt32 in [0, 1, 3] { try qtest.write(slot + Register.status, status) }
        let features = try Self.negotiate(qtest, slot)
        try qtest.write(slot + Register.status, 11)
        receiving = DriverQueue(scratch, size: NetworkSetting.ringSize, features: features)
        transmitting = DriverQueue(scratch, size: NetworkSetting.ringSize, features: features)
        for (index, queue) in [receiving, transmitting].enumerated() {
            queue.disableCalls()
            try Self.start(qtest, slot, UInt32(index), queue.layout)
        }
        try qtest.write(slot + Register.status, 15)
    }

    private static func map(_ path: String) throws -> GuestMemory {
        let size = NetworkSetting.memorySize
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        let mapping = try MemoryMapping(sharing: handle.fileDescriptor, size: Int(size))
        guard let region = GuestRegion(start: GuestAddress(0), size: size, mapping: mapping) else {
            throw OptionError("the machine's memory cannot be used")
        }
        return try GuestMemory([region])
    }

    private static func negotiate(_ qtest: QTest, _ slot: UInt64) throws -> UInt64 {
        var agreed: UInt64 = 0
        for half: UInt32 in [0, 1] {
            try qtest.write(slot + Register.deviceFeaturesSelect, half)
            let offered = try qtest.read(slot + Register.deviceFeatures)
            let wanted =
                offered & UInt32(truncatingIfNeeded: NetworkSetting.features >> (32 * half))
            try qtest.write(slot + Register.driverFeaturesSelect, half)
            try qtest.write(slot + Register.driverFeatures, wanted)
            agreed |= UInt64(wanted) << (32 * half)
        }
        return agreed
    }

    private static func start(
        _ qtest: QTest, _ slot: UInt64, _ index: UInt32, _ layout: QueueLayout
    ) throws {
        try qtest.write(slot + Register.queueSelect, index)
        try qtest.write(slot + Register.queueSize, UInt32(layout.size))
        let areas = [
            (Register.descriptors, layout.descriptors), (Register.driverArea, layout.driver),
            (Register.deviceArea, layout.device),
        ]
        // All below 4 GiB.
        for (register, address) in areas {
            try qtest.write(slot + register, UInt32(address.rawValue))
            try qtest.write(slot + register + 4, 0)
        }
        try qtest.write(slot + Register.queueReady, 1)
    }

    func kick(_ direction: Direction) {
        try? qtest.write(device + Register.queueNotify, UInt32(direction.rawValue))
    }
}

/// QEMU's test interface: lines of text.
private final class QTest {
    private let socket: UnixSocket

    init(path: String) throws {
        let deadline = Clock.monotonic() + 5_000_000_000
        while true {
            do {
                socket = try UnixSocket(connectingTo: path)
                return
            } catch {
                guard Clock.monotonic() < deadline else { throw error }
                usleep(1000)
            }
        }
    }

    func read(_ address: UInt64) throws -> UInt32 {
        let answer = try ask("readl 0x\(String(address, radix: 16))")
        let digits = answer.split(separator: "x").last ?? ""
        guard let value = UInt32(digits.suffix(8), radix: 16) else {
            throw OptionError("QEMU's test interface says '\(answer)'")
        }
        return value
    }

    func write(_ address: UInt64, _ value: UInt32) throws {
        _ = try ask("writel 0x\(String(address, radix: 16)) 0x\(String(value, radix: 16))")
    }

    private func ask(_ line: String) throws -> String {
        try socket.send(Array("\(line)\n".utf8))
        var answer: [UInt8] = []
        while answer.last != UInt8(ascii: "\n") {
            guard socket.waitReadable(timeoutMilliseconds: 5000),
                let piece = try socket.receive(upTo: 256), !piece.bytes.isEmpty
            else { throw OptionError("QEMU's test interface does not answer") }
            answer += piece.bytes
        }
        let text = String(decoding: answer.dropLast(), as: UTF8.self)
        guard text.hasPrefix("OK") else {
            throw OptionError("QEMU's test interface says '\(text)'")
        }
        return text
    }
}
