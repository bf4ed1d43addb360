import Core
import Glibc
import TestSupport
import Testing

/// Devices behind QEMU's IOMMU, whose guest gives them addresses of its own.
@Suite(
    .enabled(if: QEMU.isThere, "there is no qemu-system-x86_64"),
    .enabled(if: Means.guest != nil, "there is no guest; ./test makes it"),
    .enabled(if: Means.apus != nil, "the executable is not built"),
    .serialized)
struct QEMUIOMMUTests {
    @Test("a guest works with its disk and its network", .timeLimit(.minutes(5)))
    func work() throws {
        let folder = try TestFolder()
        let guest = try #require(Means.guest)
        let image = try RootImage(folder["disk.ext4"])
        let disk = try BlockServer(socket: folder["disk.sock"], disk: "path=\(image.path)")
        let (socket, wire) = (folder["net.sock"], folder["wire"])
        let server = try RunningProgram.apus(
            ["net", "--socket-path=\(socket)", "--net", "stream,server=on,path=\(wire)"])
        while !Means.exists(socket), server.isRunning { usleep(5_000) }
        let behind = ",disable-legacy=on,iommu_platform=on,ats=on"
        let ours = try QEMU(
            "ours", in: folder, guest: guest,
            devices: [
                "-device", "intel-iommu,device-iotlb=on",
                // Elsewhere a device has no ATS, and the guest tells it of nothing that it unmaps.
                "-device", "pcie-root-port,id=p1,chassis=1",
                "-device", "pcie-root-port,id=p2,chassis=2",
                "-chardev", "socket,id=disk,path=\(disk.socket)",
                "-device", "vhost-user-blk-pci,chardev=disk,num-queues=1,bus=p1\(behind)",
                "-chardev", "socket,id=c0,path=\(socket)",
                "-netdev", "vhost-user,id=n0,chardev=c0",
                "-device", "virtio-net-pci,netdev=n0,romfile=,vectors=0,bus=p2\(behind)",
            ])
        try ours.awaitShell()
        let console = ours.console
        // The disk is in a group of its own: the guest's kernel uses the IOMMU.
        #expect(try console.ask("ls /sys/class/iommu | grep -c dmar") == "1")
        let features = Array(try console.ask("cat /sys/block/vda/device/features"))
        #expect(features.count == 64 && features[33] == "1")
        let sum = try console.ask(
            "dd if=/dev/urandom of=/root/data bs=1M count=16 2>/dev/null; sync; "
                + "echo 3 >/proc/sys/vm/drop_caches; sha256sum </root/data | cut -c 1-64")
        let commands = [
            "modprobe virtio_net", "ip link set eth0 up", "ip addr add 10.0.0.1/24 dev eth0",
            "cut -c 34 /sys/class/net/eth0/device/features",
        ]
        #expect(try console.ask(commands.joined(separator: " && ")) == "1")
        let peer = try WirePeer(wire)
        try console.start("ping -c 20 -i 0.1 -s 1000 -W 5 10.0.0.2 | grep -c 'bytes from'")
        try peer.answer(seconds: 60) { $0 >= 20 }
        #expect(try console.answer() == "20")
        try console.type("exit")
        #expect(ours.awaitEnd() == .exited(0))
        #expect(disk.terminate() == .exited(0))
        #expect(try image.checksum(of: "/root/data") == sum)
        #expect(server.isRunning)
    }
}

/// The other end of the wire: a host with the address 10.0.0.2 that answers ARP and ping.
private final class WirePeer {
    private let socket: UnixSocket
    private var bytes: [UInt8] = []
    private static let address: [UInt8] = [2, 0, 0, 0, 0, 2]

    init(_ path: String) throws { socket = try connect(to: path) }

    /// Answers until enough pings were answered.
    func answer(seconds: UInt64, until isEnough: (Int) -> Bool) throws {
        let deadline = Clock.monotonic() + seconds * 1_000_000_000
        var count = 0
        while !isEnough(count), Clock.monotonic() < deadline {
            guard socket.waitReadable(timeoutMilliseconds: 200),
                let part = try socket.receive(upTo: 65536)
            else { continue }
            bytes += part.bytes
            while let frame = nextFrame() {
                guard let answer = Self.answer(to: frame) else { continue }
                let length = UInt32(answer.count)
                try socket.send(
                    (0..<4).map { UInt8(truncatingIfNeeded: length >> (24 - 8 * $0)) } + answer)
                if frame[12...13] == [8, 0] { count += 1 }
            }
        }
    }

    private func nextFrame() -> [UInt8]? {
        guard bytes.count >= 4 else { return nil }
        let length = bytes[..<4].reduce(0) { $0 << 8 | Int($1) }
        guard bytes.count >= 4 + length else { return nil }
        defer { bytes.removeFirst(4 + length) }
        return Array(bytes[4..<4 + length])
    }

    private static func answer(to frame: [UInt8]) -> [UInt8]? {
        guard frame.count >= 42 else { return nil }
        var answer = frame
        answer.replaceSubrange(0..<6, with: frame[6..<12])
        answer.replaceSubrange(6..<12, with: address)
        if frame[12...13] == [8, 6], frame[21] == 1, frame[38..<42] == [10, 0, 0, 2] {
            answer[21] = 2
            answer.replaceSubrange(22..<32, with: address + [10, 0, 0, 2])
            answer.replaceSubrange(32..<42, with: frame[22..<32])
            return answer
        }
        // An echo request; the answer's checksum differs by the type alone.
        guard frame[12...13] == [8, 0], frame[23] == 1, frame[34] == 8 else { return nil }
        answer.replaceSubrange(26..<34, with: frame[30..<34] + frame[26..<30])
        answer[34] = 0
        let sum = UInt32(frame[36]) << 8 | UInt32(frame[37])
        let changed = sum + 0x0800
        let folded = (changed & 0xffff) + changed >> 16
        answer[36] = UInt8(folded >> 8)
        answer[37] = UInt8(folded & 0xff)
        return answer
    }
}
