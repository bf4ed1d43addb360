import BlockBackend
import Core
import TestSupport
import Testing

/// The ways to do I/O, and the rings to ask for it.
struct Setting: CustomTestStringConvertible, Sendable {
    var engine: BlockOptions.Engine
    var isDirect: Bool
    var ring: UInt64

    var testDescription: String {
        let kind = ring & VirtioFeature.packedRing != 0 ? "packed" : "split"
        let events = ring & VirtioFeature.eventIndex != 0 ? "+event" : ""
        return "\(engine.rawValue) \(isDirect ? "direct" : "cached") \(kind)\(events)"
    }

    static let all: [Setting] = {
        let rings = [
            0, VirtioFeature.eventIndex, VirtioFeature.packedRing,
            VirtioFeature.packedRing | VirtioFeature.eventIndex,
        ]
        let engines: [(BlockOptions.Engine, Bool)] = [
            (.ioURing, false), (.ioURing, true), (.aio, true), (.threads, false), (.threads, true),
        ]
        return engines.flatMap { engine, isDirect in
            rings.map { Setting(engine: engine, isDirect: isDirect, ring: $0) }
        }
    }()

    func options(_ image: ScratchImage) -> BlockOptions {
        var options = BlockOptions(path: image.path)
        options.engine = engine
        options.isDirect = isDirect
        return options
    }
}

@Suite struct RequestTests {
    @Test("what was written is read back and is in the image", arguments: Setting.all)
    func roundTrip(setting: Setting) throws {
        let image = try ScratchImage(size: 64 << 10)
        let disk = try TestDisk(setting.options(image), ring: setting.ring)
        let data = pattern(8192)
        let written = try disk.request(Wire.write, sector: 16, data)
        #expect(written.status == Wire.ok)
        #expect(written.written == 1)
        let read = try disk.request(Wire.read, sector: 16, reading: 8192)
        #expect(read.status == Wire.ok)
        #expect(read.written == 8193)
        #expect(read.data == data)
        #expect(try disk.request(Wire.flush).status == Wire.ok)
        #expect(try Array(image.bytes[8192..<16384]) == data)
    }

    @Test(
        "header, data and status may be split anywhere", arguments: Setting.all,
        DescriptorStyle.allCases)
    func splitAnywhere(setting: Setting, style: DescriptorStyle) throws {
        let image = try ScratchImage(pattern(16 << 10))
        let disk = try TestDisk(setting.options(image), ring: setting.ring)
        let data = pattern(1024, seed: 2)
        // The header ends inside the third buffer, which also begins the data.
        let request = disk.split(Wire.header(Wire.write, sector: 3) + data, [1, 7, 100, 512, 3])
        let status = disk.scratch.place([Wire.untouched])
        disk.submit(request, [status], style: style)
        #expect(try disk.nextUsed()?.written == 1)
        #expect(disk.scratch.bytes(status) == [Wire.ok])
        // The status shares its buffer with the data's end.
        let target = [disk.scratch.buffer(1), disk.scratch.buffer(700), disk.scratch.buffer(324)]
        disk.submit(
            disk.split(Wire.header(Wire.read, sector: 3), [4, 4, 4]), target, style: style)
        #expect(try disk.nextUsed()?.written == 1025)
        #expect(target.flatMap(disk.scratch.bytes) == data + [Wire.ok])
    }

    @Test("a queue goes on where it was stopped", arguments: Setting.all)
    func restart(setting: Setting) throws {
        let image = try ScratchImage(pattern(16 << 10))
        let disk = try TestDisk(setting.options(image), ring: setting.ring, size: 8)
        for round in 0..<20 {
            let read = try disk.request(Wire.read, sector: UInt64(round), reading: 512)
            #expect(read.data == Array(try image.bytes[round * 512..<round * 512 + 512]))
            #expect(disk.stop() == disk.driver.state)
            try disk.start()
        }
    }

    @Test(
        "a queue without helpers does one request after the other",
        arguments: [0, VirtioFeature.packedRing] as [UInt64])
    func order(ring: UInt64) throws {
        let image = try ScratchImage(pattern(16 << 10))
        var options = BlockOptions(path: image.path)
        options.engine = .threads
        options.helperCount = 0
        let disk = try TestDisk(options, ring: ring)
        // Requests that fail at once, or need no I/O, are between others.
        let requests: [(UInt32, UInt64, Int)] = [
            (Wire.read, 0, 512), (99, 0, 0), (Wire.read, 1 << 40, 512), (Wire.flush, 0, 0),
            (Wire.identify, 0, 20), (Wire.read, 8, 4096), (Wire.read, 0, 3), (Wire.flush, 0, 0),
        ]
        for (index, (type, sector, count)) in requests.enumerated() {
            precondition(
                disk.driver.add(
                    readable: [disk.scratch.place(Wire.header(type, sector: sector))],
                    writable: (count > 0 ? [disk.scratch.buffer(count)] : [])
                        + [disk.scratch.place([Wire.untouched])], token: UInt64(index)))
        }
        if disk.driver.publish() { disk.kick.signal() }
        for index in requests.indices { #expect(try disk.nextUsed()?.token == UInt64(index)) }
    }

    @Test("an engine that does nothing leaves image and buffers as they are")
    func null() throws {
        let image = try ScratchImage(pattern(16 << 10))
        var options = BlockOptions(path: image.path)
        options.engine = .null
        let disk = try TestDisk(options)
        #expect(try disk.request(Wire.write, pattern(1024, seed: 2)).status == Wire.ok)
        let read = try disk.request(Wire.read, reading: 1024)
        #expect(read.status == Wire.ok)
        #expect(read.written == 1025)
        #expect(read.data == [UInt8](repeating: 0, count: 1024))
        #expect(try disk.request(Wire.flush).status == Wire.ok)
        #expect(try image.bytes == pattern(16 << 10))
    }

    @Test("the serial number is padded with zeroes")
    func identify() throws {
        let image = try ScratchImage(size: 4096)
        var options = BlockOptions(path: image.path)
        options.serial = "apus-1"
        let disk = try TestDisk(options)
        let answer = try disk.request(Wire.identify, reading: 20)
        #expect(answer.status == Wire.ok)
        #expect(answer.data == Array("apus-1".utf8) + [UInt8](repeating: 0, count: 14))
    }

    @Test(
        "transfers beyond the end or of broken sectors fail",
        arguments: [
            (8, 512), (7, 1024), (UInt64.max, 512), (UInt64.max >> 9, 512), (1 << 55, 512),
            (0, 100), (0, 513), (0, 4608),
        ] as [(UInt64, Int)])
    func outOfRange(sector: UInt64, count: Int) throws {
        let image = try ScratchImage(size: 4096)
        let disk = try TestDisk(BlockOptions(path: image.path))
        let read = try disk.request(Wire.read, sector: sector, reading: count)
        #expect(read.status == Wire.ioError)
        let write = try disk.request(Wire.write, sector: sector, pattern(count))
        #expect(write.status == Wire.ioError)
        #expect(try image.bytes == [UInt8](repeating: 0, count: 4096))
    }

    @Test("unknown requests are unsupported", arguments: [2, 3, 10, 14, 16, 0x8000_0001, .max])
    func unknown(type: UInt32) throws {
        let image = try ScratchImage(size: 4096)
        let disk = try TestDisk(BlockOptions(path: image.path))
        let answer = try disk.request(type, pattern(512), reading: 512)
        #expect(answer.status == Wire.unsupported)
    }

    @Test("a header that is cut short fails and the next request works")
    func shortHeader() throws {
        let image = try ScratchImage(pattern(4096))
        let disk = try TestDisk(BlockOptions(path: image.path))
        let status = disk.scratch.place([Wire.untouched])
        disk.submit([disk.scratch.place(Array(Wire.header(Wire.read).prefix(15)))], [status])
        #expect(try disk.nextUsed() != nil)
        #expect(disk.scratch.bytes(status) == [Wire.ioError])
        #expect(try disk.request(Wire.read, reading: 512).status == Wire.ok)
    }

    @Test("a request without room for its status is given back and the next one works")
    func noStatus() throws {
        let image = try ScratchImage(size: 4096)
        let disk = try TestDisk(BlockOptions(path: image.path))
        disk.submit([disk.scratch.place(Wire.header(Wire.write) + pattern(512))], [], token: 5)
        #expect(try disk.nextUsed() == UsedRequest(token: 5, written: 0))
        #expect(try disk.request(Wire.read, reading: 512).status == Wire.ok)
        #expect(try image.bytes == [UInt8](repeating: 0, count: 4096))
    }

    @Test("a request that holds only a status byte fails")
    func onlyStatus() throws {
        let image = try ScratchImage(size: 4096)
        let disk = try TestDisk(BlockOptions(path: image.path))
        let status = disk.scratch.place([Wire.untouched])
        disk.submit([], [status])
        #expect(try disk.nextUsed() != nil)
        #expect(disk.scratch.bytes(status) == [Wire.ioError])
    }

    @Test("a request with buffers outside guest memory fails, and the next one works")
    func badAddress() throws {
        let image = try ScratchImage(size: 4096)
        let disk = try TestDisk(BlockOptions(path: image.path))
        let status = disk.scratch.place([Wire.untouched])
        let nowhere = DriverBuffer(GuestAddress(1 << 40), 512)
        disk.submit([disk.scratch.place(Wire.header(Wire.read))], [nowhere, status])
        #expect(try disk.nextUsed() != nil)
        #expect(disk.scratch.bytes(status) == [Wire.ioError])
        #expect(try disk.request(Wire.read, reading: 512).status == Wire.ok)
    }

    @Test("many requests at once all complete, each with its own data", arguments: Setting.all)
    func deepQueue(setting: Setting) throws {
        let bytes = pattern(256 * 512)
        let image = try ScratchImage(bytes)
        let disk = try TestDisk(setting.options(image), ring: setting.ring, size: 256)
        let buffers = (0..<64).map { _ in disk.scratch.buffer(512) }
        for round in 0..<4 {
            for (index, buffer) in buffers.enumerated() {
                let sector = UInt64(round * 64 + index)
                disk.submit(
                    [disk.scratch.place(Wire.header(Wire.read, sector: sector))],
                    [buffer, disk.scratch.buffer(1)], token: sector)
            }
            for _ in buffers { #expect(try disk.nextUsed()?.written == 513) }
            let start = round * 64 * 512
            #expect(buffers.flatMap(disk.scratch.bytes) == Array(bytes[start..<start + 64 * 512]))
        }
    }

    @Test("stopping ends even if a kick comes at the same time", arguments: Setting.all)
    func stopWithKick(setting: Setting) throws {
        let image = try ScratchImage(pattern(1 << 20))
        let disk = try TestDisk(setting.options(image), ring: setting.ring)
        let data = disk.scratch.buffer(4096)
        for index in 0..<200 {
            disk.submit(
                [disk.scratch.place(Wire.header(Wire.read, sector: UInt64(index % 16)))],
                [data, disk.scratch.buffer(1)])
            disk.kick.signal()
            disk.stop()
            try disk.start()
            // Done either before or after the stop, and once.
            #expect(try disk.nextUsed()?.written == 4097)
            #expect(try disk.driver.popUsed() == nil)
        }
    }

    @Test("stopping waits for what is under way", arguments: Setting.all)
    func stopDrains(setting: Setting) throws {
        let image = try ScratchImage(pattern(1 << 20))
        let disk = try TestDisk(setting.options(image), ring: setting.ring)
        for index in 0..<16 {
            disk.submit(
                [disk.scratch.place(Wire.header(Wire.read, sector: UInt64(index)))],
                [disk.scratch.buffer(65536), disk.scratch.buffer(1)])
        }
        let state = disk.stop()
        var count = 0
        while try disk.driver.popUsed() != nil { count += 1 }
        #expect(state?.nextUsed == disk.driver.state.nextUsed)
        #expect(state?.nextAvailable == state?.nextUsed)
        #expect(count <= 16)
    }

    @Test("a request may have more pieces than the kernel takes at once", arguments: Setting.all)
    func manyPieces(setting: Setting) throws {
        let bytes = pattern(1280 * 512)
        let image = try ScratchImage(bytes)
        let disk = try TestDisk(
            setting.options(image), ring: setting.ring, size: 1024, tableSize: 1300)
        let pieces = (0..<1022).map { _ in disk.scratch.buffer(512) }
        disk.submit(
            [disk.scratch.place(Wire.header(Wire.read))], pieces + [disk.scratch.buffer(1)],
            style: .indirect)
        #expect(try disk.nextUsed()?.written == 1022 * 512 + 1)
        #expect(pieces.flatMap(disk.scratch.bytes) == Array(bytes.prefix(1022 * 512)))
    }
}
