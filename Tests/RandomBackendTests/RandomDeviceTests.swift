import Core
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

        init(_ text: String = "", ring: UInt64 = 0) throws {
            let options = try RandomOptions(RandomOptions.schema.parse(text))
            loop = try EventLoop()
            device = RandomDevice(
                RandomSource(try RandomSource.open(options)), options, loop: loop)
            scratch = try ScratchMemory(size: 4 << 20)
            driver = DriverQueue(
                scratch, size: 16, features: ring | VirtioFeature.version1, tableSize: 16)
            kick = try EventFD()
            call = try EventFD()
            try device.startQueue(0, driver.setup(scratch.memory, kick: kick, call: call))
        }

        deinit { device.reset() }

        func submit(_ buffers: [DriverBuffer]) {
            precondition(driver.add(readable: [], writable: buffers, style: .direct, token: 0))
            if driver.publish() { kick.signal() }
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
        for _ in 0..<2 { rig.submit([rig.scratch.buffer(80)]) }
        #expect(try rig.used()?.written == 80)
        #expect(try rig.used()?.written == 20)
        rig.submit([rig.scratch.buffer(80)])
        #expect(try rig.used(within: 100) == nil)
        #expect(try rig.used()?.written == 80)
    }

    @Test("a device that is stopped gives back the buffer that waits")
    func stopped() throws {
        let rig = try Rig("max-bytes=1,period=60000")
        for _ in 0..<2 { rig.submit([rig.scratch.buffer(8)]) }
        #expect(try rig.used()?.written == 1)
        #expect(try rig.used(within: 50) == nil)
        #expect(rig.device.stopQueue(0).nextAvailable == 2)
        #expect(try rig.driver.popUsed()?.written == 0)
    }

    @Test("a source is a file that exists")
    func source() throws {
        #expect(throws: BackendError.self) { try Rig("source=/nonexistent") }
        let rig = try Rig("source=/dev/zero")
        let buffer = rig.scratch.place([UInt8](repeating: 1, count: 32))
        rig.submit([buffer])
        #expect(try rig.used()?.written == 32)
        #expect(rig.scratch.bytes(buffer) == [UInt8](repeating: 0, count: 32))
    }
}
