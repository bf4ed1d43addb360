import Glibc
import TestSupport
import Testing

@Suite("A random number generator", .needs(.guest), .serialized)
struct RandomDeviceTests {
    @Test("a guest reads from it, also after its process was killed", .timeLimit(.minutes(15)))
    func reads() throws {
        let guest = try Guest(["--rng", "source=/dev/urandom"], in: TestFolder())
        try guest.awaitShell()
        #expect(try guest.run("modprobe virtio-rng && echo loaded") == "loaded")
        let current = try guest.run("cat /sys/class/misc/hw_random/rng_current")
        #expect(current == "virtio_rng.0")
        try expectRandom(guest)
        let first = try #require(backend(of: guest))
        kill(first, SIGKILL)
        try expectRandom(guest)
        #expect(try #require(backend(of: guest)) != first)
        #expect(try guest.powerOff() == 0)
    }

    private func backend(of guest: Guest) -> Int32? {
        guest.apus.child("apus-rng")
    }

    /// 10000 random bytes cannot be packed; fewer, and those that repeat, take less.
    private func expectRandom(_ guest: Guest) throws {
        let size = try guest.run("dd if=/dev/hwrng bs=500 count=20 2>/dev/null | gzip | wc -c")
        #expect(try #require(Int(size)) >= 10000)
    }
}
