import BlockBackend
import Core
import TestSupport
import Testing

/// What a device writes to guest memory while it is migrated is in the dirty log.
@Suite struct DirtyLogTests {
    @Test("every page that changes is marked", arguments: Setting.all)
    func marked(setting: Setting) throws {
        let image = try ScratchImage(pattern(1 << 20))
        let disk = try TestDisk(setting.options(image), ring: setting.ring, memory: 1 << 20)
        let log = DirtyLog(try MemoryMapping(anonymous: 4096))
        #expect(log.covers(disk.scratch.memory))
        disk.stop()
        try disk.start(log: log)
        let requests = (0..<8).map { index in
            // A gap of a page, so that neighbours' marks do not help.
            _ = disk.scratch.allocate(4096 + index * 300, alignment: 1)
            return (
                header: disk.scratch.place(Wire.header(Wire.read, sector: UInt64(index * 100))),
                data: disk.scratch.buffer(512 * (index * 3 + 1)),
                status: disk.scratch.place([Wire.untouched])
            )
        }
        let before = pages(disk.scratch.memory)
        for request in requests { disk.submit([request.header], [request.data, request.status]) }
        for _ in requests { #expect(try disk.nextUsed() != nil) }
        disk.stop()
        let after = pages(disk.scratch.memory)
        let driver = driverPages(disk.driver.layout)
        let first = disk.scratch.memory.regions[0].start.rawValue >> 12
        for (index, (old, new)) in zip(before, after).enumerated() where old != new {
            let page = first + UInt64(index)
            // Pages that hold parts of the driver's change without the device.
            let isMarked = log.isMarked(page: page)
            #expect(isMarked || driver.contains(page), "page \(page)")
        }
        // A packed ring's descriptors are its used ring, too.
        let layout = disk.driver.layout
        let isPacked = setting.ring & VirtioFeature.packedRing != 0
        let used = isPacked ? layout.descriptors : layout.device
        #expect(log.isMarked(page: used.rawValue >> 12))
        // Not everything is marked, or the test would prove nothing.
        #expect(!log.isMarked(page: first + UInt64(after.count) - 1))
    }

    private func pages(_ memory: GuestMemory) -> [[UInt8]] {
        let region = memory.regions[0]
        return stride(from: 0, to: region.size, by: 4096).map { offset in
            let address = GuestAddress(region.start.rawValue + offset)
            return (try? memory.readBytes(address, count: 4096)) ?? []
        }
    }

    private func driverPages(_ layout: QueueLayout) -> Set<UInt64> {
        let size = UInt64(layout.size)
        let descriptors = layout.descriptors.rawValue
        let driver = layout.driver.rawValue
        return Set(descriptors >> 12...(descriptors + 16 * size) >> 12)
            .union(driver >> 12...(driver + 6 + 2 * size) >> 12)
    }
}
