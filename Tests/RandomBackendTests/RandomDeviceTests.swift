import Core
import Glibc
import TestSupport
import Testing
import VhostUser

@testable import RandomBackend

@Suite struct RandomDeviceTests {
    /// A device with one driver, both on one loop.
    private final class Rig {
        let loop: EventLoop
        let device: RandomDevice
        let scratch: ScratchMemory
        let driver: DriverQueue
        let kick: EventFD
        let call: EventFD

        /// - Parameter file: what to read instead of the source.
        init(_ text: String = "", ring: UInt64 = 0, file: String? = nil) throws {
            let options = try RandomOptions(RandomOptions.schema.parse(text))
            loop = try EventLoop()
            let files =
                try file.map { [SharedFD(owning: unsafe open($0, O_RDONLY))] }
                ?? RandomSource.open(options)
            device = try RandomDevice(RandomSource(files, options), options, loop: loop)
            scratch = try ScratchMemory(size: 4 << 20)
            driver = DriverQueue(
                scratch, size: 16, features: ring | VirtioFeature.version1, tableSize: 16)
            kick = try EventFD()
            call = try EventFD()
            try device.startQueue(0, driver.setup(scratch.memory, kick: kick, call: call))
        }

        deinit { device.reset() }

        /// Starts the queue where it was stopped.
        func start(_ state: QueueState) throws {
            let fresh = driver.setup(scratch.memory, kick: kick, call: call)
            try device.startQueue(
                0,
                QueueSetup(
                    layout: fresh.layout, features: fresh.features, memory: fresh.memory,
                    state: state, kick: kick, call: call))
        }

        func submit(_ buffers: [DriverBuffer]) {
            precondition(driver.add(readable: [], writable: buffers, style: .direct, token: 0))
            if driver.publish() { kick.signal() }
        }

        /// Submits a buffer for which there is nothing.
        /// - Returns: how often the loop woke up in 200 ms.
        func submitInVain() -> Int {
            submit([scratch.buffer(100)])
            var wakeUps = 0
            let isUsed = loop.run(timeoutMilliseconds: 200) {
                wakeUps += 1
                return (try? driver.popUsed()) != nil
            }
            #expect(!isUsed)
            return wakeUps
        }

        func used(within milliseconds: UInt32 = 5000) throws -> UsedRequest? {
            var request: UsedRequest?
            _ = loop.run(timeoutMilliseconds: milliseconds) {
                request = (try? driver.popUsed()) ?? nil
                return request != nil
            }
            return request
        }
    }

    @Test("buffers are filled with bytes that differ", arguments: [0, VirtioFeature.packedRing])
    func fills(ring: UInt64) throws {
        let rig = try Rig(ring: ring)
        let buffers = [rig.scratch.buffer(1000), rig.scratch.buffer(3000)]
        rig.submit(buffers)
        #expect(try rig.used()?.written == 4000)
        let bytes = buffers.flatMap { rig.scratch.bytes($0) }
        // 4000 random bytes leave out a value with a probability of 4e-5.
        #expect(Set(bytes).count > 250)
    }

    @Test("one buffer does not get more than 64 KiB")
    func limited() throws {
        let rig = try Rig()
        rig.submit([rig.scratch.buffer(100_000)])
        #expect(try rig.used()?.written == 65536)
    }

    @Test("a limit holds in every period")
    func budget() throws {
        let rig = try Rig("max-bytes=100,period=300")
        let start = Clock.monotonic()
        for _ in 0..<3 { rig.submit([rig.scratch.buffer(80)]) }
        #expect(try rig.used()?.written == 80)
        #expect(try rig.used()?.written == 20)
        #expect(try rig.used()?.written == 80)
        // The loop counts whole milliseconds.
        #expect(Clock.monotonic() - start >= 299_000_000)
    }

    @Test(
        "a device that is stopped leaves the buffer that waits in the ring",
        arguments: [0, VirtioFeature.packedRing])
    func stopped(ring: UInt64) throws {
        let rig = try Rig("max-bytes=1,period=2000", ring: ring)
        for _ in 0..<2 { rig.submit([rig.scratch.buffer(8)]) }
        #expect(try rig.used()?.written == 1)
        #expect(try rig.used(within: 20) == nil)
        let state = rig.device.stopQueue(0)
        #expect(try rig.driver.popUsed() == nil)
        try rig.start(state)
        #expect(try rig.used()?.written == 1)
    }

    @Test("a source is a file or a device that exists")
    func source() throws {
        #expect(throws: BackendError.self) { try Rig("source=/nonexistent") }
        #expect(throws: BackendError.self) { try Rig("source=/") }
        let rig = try Rig("source=/dev/zero")
        let buffer = rig.scratch.place([UInt8](repeating: 1, count: 32))
        rig.submit([buffer])
        #expect(try rig.used()?.written == 32)
        #expect(rig.scratch.bytes(buffer) == [UInt8](repeating: 0, count: 32))
    }

    @Test(
        "as many files are taken as the options name",
        arguments: [("", 1), ("source=/dev/zero", 0), ("source=/dev/zero", 2)])
    func fileCount(text: String, count: Int) throws {
        let options = try RandomOptions(RandomOptions.schema.parse(text))
        let files = try (0..<count).map { _ in try EventFD().fd }
        #expect(throws: BackendError.self) { try RandomSource(files, options) }
    }

    @Test("a buffer waits for a file that is empty or has ended, and gets what is added to it")
    func endedFile() throws {
        let folder = try TestFolder()
        let path = try folder.file("source", [1, 2, 3])
        let rig = try Rig("source=\(path)")
        rig.submit([rig.scratch.buffer(100)])
        #expect(try rig.used()?.written == 3)
        #expect(rig.submitInVain() < 50)
        append([4, 5], to: path)
        #expect(try rig.used()?.written == 2)
    }

    @Test("a buffer waits for a pipe, whoever writes to it and when")
    func pipe() throws {
        let folder = try TestFolder()
        let path = folder["source"]
        #expect(unsafe mkfifo(path, 0o600) == 0)
        let rig = try Rig("source=\(path)")
        // Nobody writes; then somebody who rests; then somebody else.
        #expect(rig.submitInVain() < 50)
        do {
            let writer = SharedFD(owning: unsafe open(path, O_WRONLY))
            #expect(unsafe write(writer.rawValue, [1, 2, 3], 3) == 3)
            #expect(try rig.used()?.written == 3)
            #expect(rig.submitInVain() < 10)
            #expect(unsafe write(writer.rawValue, [1], 1) == 1)
            #expect(try rig.used()?.written == 1)
        }
        #expect(rig.submitInVain() < 50)
        append([1, 2], to: path)
        #expect(try rig.used()?.written == 2)
    }

    @Test("a source that cannot be read makes the buffer wait")
    func failing() throws {
        let folder = try TestFolder()
        let rig = try Rig("source=\(folder.file("source"))", file: folder.path)
        #expect(rig.submitInVain() < 50)
        #expect(rig.device.stopQueue(0).nextAvailable == 0)
    }

    private func append(_ bytes: [UInt8], to path: String) {
        let file = SharedFD(owning: unsafe open(path, O_WRONLY | O_APPEND))
        #expect(unsafe write(file.rawValue, bytes, bytes.count) == bytes.count)
    }
}
