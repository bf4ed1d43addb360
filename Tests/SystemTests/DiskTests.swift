import Core
import Foundation
import TestSupport
import Testing

@Suite("Disks keep what guests write", .serialized, .needs(.guest))
struct DiskTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    @Test("16 MiB arrive, and what is trimmed leaves holes")
    func dataAndHoles() throws {
        let guest = try Guest(in: folder)
        try guest.awaitShell()
        let sum = try guest.run(
            "for f in data waste; do dd if=/dev/urandom of=/root/$f bs=1M count=16 2>/dev/null; done;"
                + " sync; md5sum </root/data", seconds: 300)
        let full = try guest.allocatedSize
        #expect(try guest.run("rm /root/waste; sync; fstrim / && echo done") == "done")
        #expect(try guest.allocatedSize < full - (15 << 20))
        #expect(try guest.powerOff() == 0)
        #expect(try guest.checkDisk() == "")
        let data = try guest.file("/root/data")
        #expect(data.count == 16 << 20)
        #expect(try md5(of: "\(folder.path)/copy") == sum.prefix(32))
    }

    @Test("a backend that is killed during I/O is replaced and nothing is lost")
    func kills() throws {
        let guest = try Guest(in: folder)
        try guest.awaitShell()
        guest.beginWork(
            "for i in 1 2 3 4; do dd if=/dev/urandom of=/root/f$i bs=16k count=512 conv=fsync "
                + "2>/dev/null; done; sync")
        var killed = 0
        var last: Int32 = 0
        let deadline = Clock.monotonic() + 120_000_000_000
        while killed < 12 {
            try #require(Clock.monotonic() < deadline, "killed \(killed) times only")
            usleep(150_000)
            guard let backend = guest.backend, backend.id != last,
                backend.arguments.first == "apus-block"
            else { continue }
            last = backend.id
            kill(backend.id, SIGKILL)
            killed += 1
        }
        try guest.endWork()
        _ = try guest.run("echo 3 > /proc/sys/vm/drop_caches; echo ok")
        let sums = try guest.run("for i in 1 2 3 4; do md5sum < /root/f$i; done", seconds: 300)
        #expect(try guest.powerOff() == 0)
        #expect(try guest.checkDisk() == "")
        for (index, sum) in sums.split(separator: "-").prefix(4).enumerated() {
            _ = try guest.file("/root/f\(index + 1)")
            let expected = sum.trimmingCharacters(in: .whitespaces)
            #expect(try md5(of: "\(folder.path)/copy") == expected)
        }
    }
}
