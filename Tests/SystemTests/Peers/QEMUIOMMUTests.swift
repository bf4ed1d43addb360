import Core
import Glibc
import TestSupport
import Testing

/// Disks behind QEMU's IOMMU, whose guest gives them addresses of its own.
@Suite(
    .needsGuestOfQEMU,
    .serialized)
struct QEMUIOMMUTests {
    @Test("a guest works with its disk", .timeLimit(.minutes(15)))
    func work() throws {
        let folder = try TestFolder()
        let guest = try #require(Means.guest)
        let image = try RootImage(folder["disk.ext4"])
        let disk = try BlockServer(socket: folder["disk.sock"], disk: "path=\(image.path)")
        let behind = ",disable-legacy=on,iommu_platform=on,ats=on"
        let ours = try QEMU(
            "ours", in: folder, guest: guest,
            devices: [
                "-device", "intel-iommu,device-iotlb=on",
                // Elsewhere a device has no ATS, and the guest tells it of nothing that it unmaps.
                "-device", "pcie-root-port,id=p1,chassis=1",
                "-chardev", "socket,id=disk,path=\(disk.socket)",
                "-device", "vhost-user-blk-pci,chardev=disk,num-queues=1,bus=p1\(behind)",
            ])
        try ours.awaitShell()
        let console = ours.console
        // The disk is in a group of its own: the guest's kernel uses the IOMMU.
        #expect(try console.ask("ls /sys/class/iommu | grep -c dmar") == "1")
        let features = Array(try console.ask("cat /sys/block/vda/device/features"))
        #expect(features.count == 64 && features[33] == "1")
        let sum = try console.ask(
            "dd if=/dev/urandom of=/root/data bs=1M count=16 2>/dev/null; sync; "
                + "echo 3 >/proc/sys/vm/drop_caches; md5sum </root/data | cut -c 1-32")
        try console.type("exit")
        #expect(ours.awaitEnd() == .exited(0))
        #expect(disk.terminate() == .exited(0))
        #expect(try image.checksum(of: "/root/data") == sum)
    }
}
