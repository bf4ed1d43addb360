@testable import BlockBackend
import CLinux
import Core
import Glibc
import Testing

@Suite struct ImageTests {
    /// The sentence with which opening an image is refused.
    private func refusal(_ options: BlockOptions) -> String {
        do throws(BlockError) {
            _ = try RawImage(options, patience: 0)
            return "none"
        } catch {
            return error.description
        }
    }

    @Test("an image that is being written to is busy for everybody else")
    func exclusive() throws {
        let file = try ScratchImage(size: 4096)
        var options = BlockOptions(path: file.path)
        let image = try RawImage(options)
        #expect(refusal(options) == "image \(file.path) is in use by another process")
        options.isReadOnly = true
        #expect(refusal(options) == "image \(file.path) is in use by another process")
        options.isLocked = false
        #expect(refusal(options) == "none")
        withExtendedLifetime(image) {}
    }

    @Test("readers share an image, and keep a writer out")
    func shared() throws {
        let file = try ScratchImage(size: 4096)
        var options = BlockOptions(path: file.path)
        options.isReadOnly = true
        let image = try RawImage(options)
        #expect(refusal(options) == "none")
        options.isReadOnly = false
        #expect(refusal(options) == "image \(file.path) is in use by another process")
        withExtendedLifetime(image) {}
    }

    @Test("the lock goes with the device, whatever did the I/O", arguments: Setting.all)
    func unlocked(setting: Setting) throws {
        let file = try ScratchImage(pattern(65536))
        for _ in 0..<20 {
            do {
                let disk = try TestDisk(setting.options(file), ring: setting.ring)
                #expect(try disk.request(Wire.read, reading: 4096).status == Wire.ok)
                let whileOpen = refusal(BlockOptions(path: file.path))
                #expect(whileOpen.hasSuffix("in use by another process"))
                withExtendedLifetime(disk) {}
            }
            #expect(refusal(BlockOptions(path: file.path)) == "none")
        }
    }

    @Test("a lock that goes away in time is waited for")
    func patience() throws {
        let file = try ScratchImage(size: 4096)
        let options = BlockOptions(path: file.path)
        let holder = SharedFD(
            owning: try checking("open", unsafe clinux_open(file.path, O_RDWR, 0)))
        #expect(clinux_lock_file(holder.rawValue, 1) == 0)
        let thread = try Thread(name: "holder") {
            usleep(100_000)
            // The descriptor number stays valid, but the lock is gone with the old description.
            _ = dup2(STDERR_FILENO, holder.rawValue)
        }
        #expect(throws: Never.self) { _ = try RawImage(options, patience: 10_000_000_000) }
        thread.join()
    }

    @Test("an image must be a whole number of blocks")
    func partialBlocks() throws {
        let file = try ScratchImage(size: 4096 + 512)
        var options = BlockOptions(path: file.path)
        #expect(try RawImage(options).size == 4608)
        options.blockSize = 4096
        #expect(
            refusal(options).contains("has 4608 bytes, which is no multiple of its block size 4096")
        )
        let odd = try ScratchImage(size: 513)
        #expect(refusal(BlockOptions(path: odd.path)).contains("no multiple of its block size 512"))
    }

    @Test(
        "an image that begins like QCOW2 is taken byte for byte, if it is a whole number of blocks")
    func foreign() throws {
        let magic: [UInt8] = [0x51, 0x46, 0x49, 0xfb]
        let odd = try ScratchImage(magic + [UInt8](repeating: 0, count: 509))
        #expect(
            refusal(BlockOptions(path: odd.path)).hasPrefix("image \(odd.path) is a QCOW2 file"))
        let whole = try ScratchImage(magic + [UInt8](repeating: 0, count: 508))
        #expect(try RawImage(BlockOptions(path: whole.path)).size == 512)
    }

    @Test("an empty image is refused")
    func empty() throws {
        let file = try ScratchImage(size: 0)
        #expect(refusal(BlockOptions(path: file.path)) == "image \(file.path) is empty")
    }

    @Test("what is no file is refused")
    func notAFile() {
        #expect(
            refusal(BlockOptions(path: "/nowhere/at/all")).hasSuffix("No such file or directory"))
        #expect(refusal(BlockOptions(path: "/proc")) == "image /proc is a directory")
        #expect(
            refusal(BlockOptions(path: "/dev/null"))
                == "image /dev/null is neither a file nor a block device")
    }

    @Test("asynchronous I/O of the older kind needs direct I/O")
    func aioNeedsDirect() throws {
        let file = try ScratchImage(size: 4096)
        var options = BlockOptions(path: file.path)
        options.engine = .aio
        #expect(throws: BlockError("engine=aio needs direct=on")) {
            try BlockDevice(RawImage(options), options)
        }
    }

    @Test("images in memory are served by ordinary system calls")
    func memoryEngine() throws {
        let file = try ScratchImage(size: 4096, isInMemory: true)
        let image = try RawImage(BlockOptions(path: file.path))
        #expect(image.isInMemory)
        #expect(try EngineKind.candidates(.automatic, for: image) == [.threads])
    }
}

@Suite struct ConfigTests {
    private func word<T: FixedWidthInteger>(_ device: BlockDevice, _ offset: Int, _: T.Type) -> T {
        let bytes = device.readConfig(offset: offset, count: MemoryLayout<T>.size)
        return bytes.reversed().reduce(0) { $0 << 8 | T(truncatingIfNeeded: $1) }
    }

    // Offsets: struct virtio_blk_config in VIRTIO 1.3, section 5.2.4.
    @Test("the configuration space describes the image")
    func fields() throws {
        let file = try ScratchImage(size: 1 << 20)
        var options = BlockOptions(path: file.path)
        options.queueCount = 3
        let device = try BlockDevice(RawImage(options), options)
        #expect(word(device, 0, UInt64.self) == 2048)
        #expect(word(device, 8, UInt32.self) == 0)
        #expect(word(device, 12, UInt32.self) == 126)
        #expect(word(device, 20, UInt32.self) == 512)
        #expect(word(device, 24, UInt8.self) == 3)
        #expect(word(device, 32, UInt8.self) == 1)
        #expect(word(device, 34, UInt16.self) == 3)
        #expect(word(device, 36, UInt32.self) == 1 << 22)
        #expect(word(device, 40, UInt32.self) == 32)
        #expect(word(device, 44, UInt32.self) == 8)
        #expect(word(device, 48, UInt32.self) == 1 << 22)
        #expect(word(device, 52, UInt32.self) == 32)
        #expect(word(device, 56, UInt8.self) == 1)
    }

    @Test(
        "reads stop where the space ends",
        arguments: [(-1, 4, 0), (0, 200, 96), (95, 2, 1), (96, 1, 0), (Int.max, Int.max, 0)])
    func bounds(offset: Int, count: Int, expected: Int) throws {
        let file = try ScratchImage(size: 4096)
        let options = BlockOptions(path: file.path)
        let device = try BlockDevice(RawImage(options), options)
        #expect(device.readConfig(offset: offset, count: count).count == expected)
    }

    @Test("only the write-back byte can be written")
    func writeback() throws {
        let file = try ScratchImage(size: 4096)
        let options = BlockOptions(path: file.path)
        let device = try BlockDevice(RawImage(options), options)
        let before = device.readConfig(offset: 0, count: 96)
        device.writeConfig(offset: 0, [UInt8](repeating: 0xff, count: 32))
        device.writeConfig(offset: 33, [UInt8](repeating: 0xff, count: 100))
        device.writeConfig(offset: -5, [1, 2, 3])
        #expect(device.readConfig(offset: 0, count: 96) == before)
        device.writeConfig(offset: 32, [0])
        #expect(word(device, 32, UInt8.self) == 0)
        device.reset()
        #expect(word(device, 32, UInt8.self) == 1)
    }

    @Test("a write-through disk offers nothing to flush")
    func writeThrough() throws {
        let file = try ScratchImage(size: 4096)
        var options = BlockOptions(path: file.path)
        options.isWriteback = false
        let device = try BlockDevice(RawImage(options), options)
        #expect(device.features & (Wire.flushFeature | Wire.configurableCacheFeature) == 0)
        #expect(word(device, 32, UInt8.self) == 0)
    }

    @Test("a read-only disk offers nothing that changes it")
    func readOnly() throws {
        let file = try ScratchImage(size: 4096)
        var options = BlockOptions(path: file.path)
        options.isReadOnly = true
        let features = try BlockDevice(RawImage(options), options).features
        #expect(features & Wire.readOnlyFeature != 0)
        #expect(features & (Wire.discardFeature | Wire.writeZeroesFeature | Wire.flushFeature) == 0)
    }
}
