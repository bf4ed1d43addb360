import Glibc
import TestSupport
import Testing

@Suite("A random number generator", .enabled(if: Setting.hasGuest), .serialized)
struct RandomDeviceTests {
    @Test("a guest reads from it, also after its process was killed", .timeLimit(.minutes(5)))
    func reads() throws {
        let guest = try Guest(["--rng", "source=/dev/urandom"], in: TestFolder())
        try guest.awaitShell()
        #expect(try guest.run("modprobe virtio-rng && echo loaded") == "loaded")
        let current = try guest.run("cat /sys/class/misc/hw_random/rng_current")
        #expect(current == "virtio_rng.0")
        let read = "dd if=/dev/hwrng bs=500 count=20 2>/dev/null | wc -c"
        #expect(try guest.run(read) == "10000")
        let backend = try #require(
            guest.apus.children.first { $0.arguments.first == "apus-rng" })
        kill(backend.id, SIGKILL)
        #expect(try guest.run(read) == "10000")
        #expect(try guest.powerOff() == 0)
    }
}
