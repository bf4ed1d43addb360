@testable import BlockBackend
import Core
import TestSupport
import Testing

/// A queue that is suspended leaves what it has taken to whoever goes on.
@Suite struct SuspensionTests {
    @Test(
        "what it leaves is done later, and nothing twice",
        arguments: Setting.all.filter { $0.ring & VirtioFeature.eventIndex == 0 })
    func leave(setting: Setting) throws {
        let image = try ScratchImage(size: 8 << 20)
        var options = setting.options(image)
        // Each write is on the disk before it completes, by one thread.
        options.isWriteback = false
        options.helperCount = setting.engine == .threads ? 1 : options.helperCount
        let isPacked = setting.ring & VirtioFeature.packedRing != 0
        let region = try #require(
            InflightRegion(
                MemoryMapping(anonymous: 1 << 16), offset: 0, entries: 64, isPacked: isPacked))
        let disk = try TestDisk(options, ring: setting.ring)
        disk.stop()
        try disk.start(inflight: region)
        var statuses: [DriverBuffer] = []
        let payloads = (0..<20).map { _ in disk.scratch.buffer(65536) }
        var leftCount = 0
        var round = 0
        /// What was written to each 64 KiB last.
        var seeds: [Int: UInt64] = [:]
        // One thread may have done all before it is stopped, but not every time.
        while round < 2 || (setting.engine == .threads && leftCount == 0 && round < 200) {
            // One call for all, so that all are taken before the first is done.
            for (index, payload) in payloads.enumerated() {
                let number = round * 20 + index
                let place = number % 128
                let seed = UInt64(number + 1)
                seeds[place] = seed
                try disk.scratch.memory.write(payload.address, pattern(65536, seed: seed))
                let header = Wire.header(Wire.write, sector: UInt64(place * 128))
                let status = disk.scratch.place([Wire.untouched])
                statuses.append(status)
                precondition(
                    disk.driver.add(
                        readable: [disk.scratch.place(header), payload], writable: [status]))
            }
            round += 1
            _ = disk.driver.publish()
            disk.kick.signal()
            _ = try disk.nextUsed()
            let state = disk.suspend()
            leftCount += Int(distance(state, isPacked: isPacked))
            try disk.start(inflight: region)
            for _ in 0..<19 { #expect(try disk.nextUsed() != nil) }
        }
        #expect(try disk.driver.popUsed() == nil)
        #expect(statuses.allSatisfy { disk.scratch.bytes($0) == [Wire.ok] })
        disk.stop()
        let bytes = try image.bytes
        #expect(seeds.count >= 40)
        for (place, seed) in seeds {
            #expect(bytes[(place * 65536)...].prefix(65536) == pattern(65536, seed: seed)[...])
        }
        // The kernel finishes what it has begun; threads have begun one of twenty.
        if setting.engine == .threads { #expect(leftCount > 0) }
    }

    /// Ring entries that were taken and not given back.
    private func distance(_ state: QueueState, isPacked: Bool) -> UInt16 {
        guard isPacked else { return state.nextAvailable &- state.nextUsed }
        let places = [state.nextAvailable, state.nextUsed].map {
            Int($0 & 0x7fff) + ($0 & 0x8000 == state.nextUsed & 0x8000 ? 0 : 64)
        }
        return UInt16(places[0] - places[1])
    }
}
