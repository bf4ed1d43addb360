import Core
import Glibc
import TestSupport
import Testing

/// Back ends that promise to use buffers in the order in which they got them.
@Suite("VIRTIO_F_IN_ORDER", .enabled(if: BuiltExecutable.path != nil))
struct InOrderTests {
    /// A back end and a queue of it that does something with whatever it is given.
    struct Offer: CustomTestStringConvertible {
        let arguments: [String]
        let queue: UInt32
        /// What a buffer holds that is to be read; empty if it is to be written.
        let contents: [UInt8]

        var testDescription: String { arguments[0] }

        static let all = [
            Offer(arguments: ["rng"], queue: 0, contents: []),
            Offer(arguments: ["console", "--console", "null"], queue: 1, contents: [1, 2, 3]),
            // The reset of a connection that does not exist.
            Offer(
                arguments: ["vsock", "--vsock", "cid=3,path=FOLDER/guest"], queue: 1,
                contents: [UInt8](repeating: 0, count: 28) + [1, 0, 3, 0]
                    + [UInt8](repeating: 0, count: 12)),
        ]
    }

    @Test(
        "is kept while a driver adds as fast as it can", arguments: Offer.all,
        [0, VirtioFeature.packedRing] as [UInt64])
    func order(offer: Offer, ring: UInt64) throws {
        let folder = try TestFolder()
        let (near, far) = try UnixSocket.pair()
        let process = try ChildProcess(
            path: BuiltExecutable.path ?? "",
            arguments: ["apus", offer.arguments[0], "--fd=3", "--log-level", "error"]
                + offer.arguments.dropFirst().map {
                    $0 == "cid=3,path=FOLDER/guest" ? "cid=3,path=\(folder["guest"])" : $0
                },
            environment: [], descriptors: [(far.fd, 3)])
        defer { process.kill() }
        let client = try VhostUserClient(adopting: near.fd)
        let features =
            VirtioFeature.version1 | VirtioFeature.indirectDescriptors | VirtioFeature.inOrder
            | ring
        try client.negotiate(features)
        #expect(client.features & features == features)
        let scratch = try ScratchMemory(size: 4 << 20)
        try client.share(scratch.memory)
        let driver = DriverQueue(scratch, size: 64, features: features, tableSize: 4)
        let (kick, call) = try (EventFD(), EventFD())
        try client.start(offer.queue, driver, kick: kick, call: call)

        // The driver goes by the order alone: the next used entry is that of the oldest request.
        var sent: UInt64 = 0
        var received: UInt64 = 0
        let buffers = (0..<64).map { _ in
            offer.contents.isEmpty ? scratch.buffer(64) : scratch.place(offer.contents)
        }
        let deadline = Clock.monotonic() + 20_000_000_000
        while received < 5000, Clock.monotonic() < deadline {
            for _ in 0...Int(sent % 7) where sent - received < 60 && driver.freeCount >= 2 {
                let buffer = buffers[Int(sent % 64)]
                let isRead = !offer.contents.isEmpty
                driver.add(
                    readable: isRead ? [buffer] : [], writable: isRead ? [] : [buffer],
                    style: sent % 3 == 0 ? .indirect : .direct, token: sent)
                sent += 1
            }
            if driver.publish() { kick.signal() }
            while let used = try driver.popUsed() {
                try #require(used.token == received)
                received += 1
            }
        }
        #expect(received >= 5000)
    }
}
