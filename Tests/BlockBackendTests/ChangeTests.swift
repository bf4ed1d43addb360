import BlockBackend
import CLinux
import Core
import Glibc
import TestSupport
import Testing

/// Requests that change the image in other ways than by data, and those that must not.
@Suite struct ChangeTests {
    @Test("discarded sectors become holes", arguments: Setting.all)
    func discard(setting: Setting) throws {
        let image = try ScratchImage(pattern(256 << 10))
        let disk = try TestDisk(setting.options(image), ring: setting.ring)
        let before = image.allocatedSize
        let answer = try disk.request(
            Wire.discard, Wire.range(0, 128) + Wire.range(256, 256))
        #expect(answer.status == Wire.ok)
        #expect(answer.written == 1)
        #expect(image.allocatedSize == before - (192 << 10))
        var expected = pattern(256 << 10)
        expected.replaceSubrange(0..<65536, with: repeatElement(0, count: 65536))
        expected.replaceSubrange(131072..<262144, with: repeatElement(0, count: 131072))
        #expect(try image.bytes == expected)
    }

    @Test("zeroes are written, with and without giving space back", arguments: Setting.all, [0, 1])
    func writeZeroes(setting: Setting, flags: UInt32) throws {
        let image = try ScratchImage(pattern(64 << 10))
        let disk = try TestDisk(setting.options(image), ring: setting.ring)
        let before = image.allocatedSize
        let answer = try disk.request(Wire.writeZeroes, Wire.range(8, 64, flags: flags))
        #expect(answer.status == Wire.ok)
        var expected = pattern(64 << 10)
        expected.replaceSubrange(4096..<36864, with: repeatElement(0, count: 32768))
        #expect(try image.bytes == expected)
        #expect(image.allocatedSize == (flags == 0 ? before : before - 32768))
    }

    @Test("zeroes are written where the file system has no call for it")
    func writeZeroesInMemory() throws {
        let image = try ScratchImage(pattern(4 << 20), isInMemory: true)
        let disk = try TestDisk(BlockOptions(path: image.path))
        let answer = try disk.request(
            Wire.writeZeroes, Wire.range(1, 6000) + Wire.range(0, 0) + Wire.range(6001, 3))
        #expect(answer.status == Wire.ok)
        var expected = pattern(4 << 20)
        expected.replaceSubrange(512..<6004 * 512, with: repeatElement(0, count: 6003 * 512))
        #expect(try image.bytes == expected)
    }

    @Test(
        "ranges that make no sense change nothing",
        arguments: [
            (Wire.discard, Wire.range(0, 1, flags: 1), Wire.unsupported),
            (Wire.discard, Wire.range(0, 1, flags: 2), Wire.unsupported),
            (Wire.writeZeroes, Wire.range(0, 1, flags: 2), Wire.unsupported),
            (Wire.discard, Wire.range(0, 9), Wire.ioError),
            (Wire.discard, Wire.range(8, 1), Wire.ioError),
            (Wire.discard, Wire.range(.max, 2), Wire.ioError),
            (Wire.writeZeroes, Wire.range(0, .max), Wire.ioError),
            (Wire.discard, [], Wire.ioError),
            (Wire.discard, Array(Wire.range(0, 1).prefix(15)), Wire.ioError),
            (Wire.discard, Wire.range(0, 1) + [0], Wire.ioError),
            (Wire.discard, Wire.range(0, 1) + Wire.range(0, 9), Wire.ioError),
            (
                Wire.discard, Array(repeatElement(Wire.range(0, 1), count: 33).joined()),
                Wire.ioError
            ),
        ])
    func badRanges(type: UInt32, payload: [UInt8], status: UInt8) throws {
        let image = try ScratchImage(pattern(4096))
        let disk = try TestDisk(BlockOptions(path: image.path))
        #expect(try disk.request(type, payload).status == status)
        #expect(try image.bytes == pattern(4096))
    }

    @Test("a read-only disk can be read and nothing else", arguments: Setting.all)
    func readOnly(setting: Setting) throws {
        let image = try ScratchImage(pattern(4096))
        var options = setting.options(image)
        options.isReadOnly = true
        let disk = try TestDisk(options, ring: setting.ring)
        #expect(try disk.request(Wire.read, reading: 4096).data == pattern(4096))
        #expect(try disk.request(Wire.write, pattern(512, seed: 9)).status == Wire.ioError)
        #expect(try disk.request(Wire.discard, Wire.range(0, 1)).status == Wire.unsupported)
        #expect(try disk.request(Wire.writeZeroes, Wire.range(0, 1)).status == Wire.unsupported)
        #expect(try disk.request(Wire.flush).status == Wire.ok)
        #expect(try image.bytes == pattern(4096))
    }

    @Test("what was not negotiated is unsupported")
    func notNegotiated() throws {
        let image = try ScratchImage(pattern(4096))
        let disk = try TestDisk(BlockOptions(path: image.path), features: 0)
        #expect(try disk.request(Wire.discard, Wire.range(0, 1)).status == Wire.unsupported)
        #expect(try disk.request(Wire.writeZeroes, Wire.range(0, 1)).status == Wire.unsupported)
        #expect(try image.bytes == pattern(4096))
    }

    @Test("writes work with every kind of cache", arguments: Setting.all)
    func cacheModes(setting: Setting) throws {
        let image = try ScratchImage(size: 16384)
        let disk = try TestDisk(setting.options(image), ring: setting.ring)
        #expect(try disk.request(Wire.write, pattern(4096)).status == Wire.ok)
        disk.device.writeConfig(offset: 32, [0])
        #expect(try disk.request(Wire.write, sector: 8, pattern(4096)).status == Wire.ok)
        #expect(try disk.request(Wire.discard, Wire.range(0, 1)).status == Wire.ok)
        #expect(try disk.request(Wire.flush).status == Wire.ok)
        #expect(try Array(image.bytes[4096..<8192]) == pattern(4096))
    }

    @Test(
        "nothing reaches behind the end of an image that has become shorter, which stays so",
        arguments: Setting.all, [false, true])
    func truncated(setting: Setting, isInMemory: Bool) throws {
        if isInMemory && setting.isDirect { return }  // Not all kernels have both.
        let image = try ScratchImage(pattern(16384), isInMemory: isInMemory)
        let disk = try TestDisk(setting.options(image), ring: setting.ring)
        _ = unsafe truncate(image.path, 8192)
        #expect(try disk.request(Wire.read, sector: 16, reading: 4096).status == Wire.ioError)
        #expect(try disk.request(Wire.read, sector: 12, reading: 4096).status == Wire.ioError)
        let new = pattern(4096, seed: 2)
        for sector: UInt64 in [12, 16, 24] {
            #expect(try disk.request(Wire.write, sector: sector, new).status == Wire.ioError)
            let range = Wire.range(sector, 8)
            #expect(try disk.request(Wire.writeZeroes, range).status == Wire.ioError)
            #expect(try disk.request(Wire.discard, range).status == Wire.ioError)
        }
        #expect(try image.bytes == Array(pattern(16384).prefix(8192)))
        #expect(try disk.request(Wire.write, sector: 8, new).status == Wire.ok)
        #expect(try image.bytes == Array(pattern(16384).prefix(4096)) + new)
        let kept = try disk.request(Wire.read, reading: 4096)
        #expect(kept.status == Wire.ok)
        #expect(kept.data == Array(pattern(16384).prefix(4096)))
        // Whoever gives it its size back gets all of the disk back.
        _ = unsafe truncate(image.path, 16384)
        #expect(try disk.request(Wire.write, sector: 24, new).status == Wire.ok)
    }
}
