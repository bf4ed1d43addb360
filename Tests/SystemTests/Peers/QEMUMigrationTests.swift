import Core
import Foundation
import TestSupport
import Testing

/// Live migration between two machines of QEMU whose devices are processes of ours. QEMU 7.2 can
/// migrate two kinds of vhost-user devices that we have, disks and network interfaces; newer ones also
/// shared folders (QEMUFolderMigrationTests).
@Suite(
    .needsGuestOfQEMU,
    .serialized)
struct QEMUMigrationTests {
    private let folder: TestFolder
    private let image: RootImage
    private let guest: String

    init() throws {
        folder = try TestFolder()
        guest = try #require(Means.guest)
        image = try RootImage(folder["disk.ext4"])
    }

    /// What the guest does while it migrates: it writes files whose checksums it takes from what it
    /// meant to write, and reads others back from the disk. A page that the back end changed and
    /// that was not migrated shows as a wrong checksum here or as a damaged file system at the end.
    private static let diskLoad = """
        n=0; steps=0; bad=0; while [ ! -e /run/stop ]; do f=part$((n % 4)); \
        dd if=/dev/urandom bs=64k count=16 2>/dev/null | tee $f | md5sum >/run/$f; sync; \
        echo 3 >/proc/sys/vm/drop_caches; \
        for g in part*; do md5sum <$g | cmp -s - /run/$g || bad=$((bad + 1)); \
        steps=$((steps + 1)); echo $steps >/run/steps; done; \
        n=$((n + 1)); echo $n >/run/rounds; echo $bad >/run/bad; done; echo load-is-over >/run/over
        """

    /// Meanwhile it fetches a file again and again, whose checksum is the argument. A used ring that
    /// was not migrated stops this for good.
    private static func networkLoad(_ sum: String) -> String {
        """
        n=0; lost=0; while [ ! -e /run/stop ]; do \
        wget -q -O /run/page http://10.0.2.1:8080/page || lost=$((lost + 1)); \
        [ "$(md5sum </run/page)" = "\(sum)  -" ] || lost=$((lost + 1)); \
        n=$((n + 1)); echo $n >/run/fetches; echo $lost >/run/lost; done
        """
    }

    @Test(
        "a guest migrates while it uses its disk",
        .enabled(if: !NetworkNamespace.isPossible, "the test with a network does this too"),
        .timeLimit(.minutes(15)))
    func disk() throws {
        let (source, target, servers) = try start()
        try source.awaitShell()
        try migrateBusy(source, target)
        withExtendedLifetime(servers) {}
    }

    @Test(
        "a guest goes on while its memory is still on its way",
        .enabled(
            if: (try? RemoteFaults.openDevice()) != nil, "/dev/userfaultfd cannot be used"),
        .timeLimit(.minutes(15)))
    func postcopy() throws {
        let (source, target, servers) = try start(options: ["--postcopy"])
        try source.awaitShell()
        for machine in [source, target] {
            try machine.monitor().execute(
                #"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": "#
                    + #"[{"capability": "postcopy-ram", "state": true}]}}"#)
        }
        try migrateBusy(source, target, byPostcopy: true)
        withExtendedLifetime(servers) {}
    }

    @Test(
        "a guest migrates while it uses its disk and its network",
        .needs(.namespaces), .timeLimit(.minutes(15)))
    func network() throws {
        let host = try SwitchedHost(in: folder)
        let interfaces = try ["source", "target"].map { name in
            let socket = folder["\(name).net"]
            let program = try RunningProgram.apus(
                [
                    "net", "--socket-path=\(socket)", "--net",
                    "stream,mac=02:00:00:00:00:05,path=\(host.socket)",
                ])
            while !Means.exists(socket), program.isRunning { usleep(5_000) }
            return program
        }
        let (source, target, servers) = try start { name in
            [
                "-chardev", "socket,id=c0,path=\(folder["\(name).net"])",
                "-netdev", "vhost-user,id=n0,chardev=c0",
                "-device", "virtio-net-pci,netdev=n0,romfile=,vectors=0,mac=02:00:00:00:00:05",
            ]
        }
        try source.awaitShell()
        let commands = [
            "modprobe virtio_net", "ip link set eth0 up", "ip addr add 10.0.2.2/24 dev eth0",
            "echo up",
        ]
        #expect(try source.console.ask(commands.joined(separator: " && ")) == "up")
        try source.console.type("(\(Self.networkLoad(host.sum))) &")
        try awaitCount("fetches", 2, on: source.console)
        try migrateBusy(source, target) { console in
            try awaitCount("fetches", try count("fetches", on: console) + 4, on: console)
            #expect(try console.ask("cat /run/lost") == "0")
        }
        for interface in interfaces { #expect(interface.isRunning) }
        withExtendedLifetime(servers) {}
    }

    @Test(
        "QEMU refuses to migrate the other devices",
        arguments: [
            (["rng"], "vhost-user-rng-pci,chardev=c0", "vhost-user-rng"),
            (
                ["vsock", "--vsock", "cid=3,path=FOLDER/guest"], "vhost-user-vsock-pci,chardev=c0",
                "vhost-user-vsock"
            ),
            (["fs", "--shared-dir=FOLDER"], "vhost-user-fs-pci,chardev=c0,tag=t", "vhost-user-fs"),
        ].filter { $0.2 != "vhost-user-fs" || Means.qemu.map(Means.migratesFolders) != true })
    func refused(arguments: [String], device: String, name: String) throws {
        let socket = folder["socket"]
        let program = try RunningProgram.apus(
            [arguments[0], "--socket-path=\(socket)"]
                + arguments.dropFirst().map {
                    $0.replacingOccurrences(of: "FOLDER", with: folder.path)
                })
        while !Means.exists(socket), program.isRunning { usleep(5_000) }
        let machine = try QEMU(
            "vm", in: folder, guest: guest,
            devices: ["-S", "-chardev", "socket,id=c0,path=\(socket)", "-device", device])
        let monitor = try machine.monitor()
        // The day that it can, this test is to be one of migration.
        do {
            try monitor.execute(
                #"{"execute": "migrate", "arguments": {"uri": "exec:cat >/dev/null"}}"#)
            Issue.record("it migrates")
        } catch {
            #expect("\(error)".contains("non-migratable device") && "\(error)".contains(name))
        }
    }

    // MARK: Two machines

    /// Starts two machines with the disk, of which the second waits for the first one's guest.
    private func start(
        options: [String] = [], devices: (String) -> [String] = { _ in [] }
    ) throws -> (source: QEMU, target: QEMU, servers: [BlockServer]) {
        // Both ends have the image open, so neither can hold a lock.
        let disk = "path=\(image.path),lock=off"
        let servers = try [0, 1].map {
            try BlockServer(socket: folder["disk\($0).sock"], disk: disk, options: options)
        }
        let source = try QEMU(
            "source", in: folder, guest: guest, processor: .flushing,
            devices: QEMU.disk(servers[0].socket, queues: 1) + devices("source"))
        let target = try QEMU(
            "target", in: folder, guest: guest, processor: .flushing,
            devices: QEMU.disk(servers[1].socket, queues: 1) + devices("target")
                + ["-incoming", "unix:\(folder["migration"])"])
        return (source, target, servers)
    }

    /// Migrates a guest while it works, and checks that it goes on and has lost nothing.
    private func migrateBusy(
        _ source: QEMU, _ target: QEMU, byPostcopy: Bool = false,
        meanwhile: (GuestConsole) throws -> Void = { _ in }
    ) throws {
        try source.console.type("(\(Self.diskLoad)) &")
        try awaitCount("rounds", 2, on: source.console)
        let before = try count("steps", on: source.console)
        try migrate(source, to: folder["migration"], byPostcopy: byPostcopy)
        let console = target.console
        try awaitCount("steps", before + 1, on: console)
        try meanwhile(console)
        try awaitCount("rounds", try count("rounds", on: console) + 4, on: console)
        #expect(
            try console.ask("touch /run/stop; while [ ! -e /run/over ]; do sleep 1; done; echo ok")
                == "ok")
        #expect(try console.ask("cat /run/bad; dmesg | grep -c 'I/O error'") == "0\n0")
        let sums = try (0..<4).map { try console.ask("cut -c 1-32 /run/part\($0)") }
        try console.type("exit")
        #expect(target.awaitEnd() == .exited(0))
        for (index, sum) in sums.enumerated() {
            #expect(sum.count == 32)
            #expect(try image.checksum(of: "/root/part\(index)") == sum)
        }
    }

    /// A number that the guest's load counts: `rounds` of writing a file and checking all, `steps`
    /// of checking one, `fetches`.
    private func count(_ name: String, on console: GuestConsole) throws -> Int {
        Int(try console.ask("cat /run/\(name)")) ?? 0
    }

    /// Waits for as long as it takes if something moves.
    private func awaitCount(_ name: String, _ wanted: Int, on console: GuestConsole) throws {
        var last = -1
        var deadline: UInt64 = 0
        while true {
            let count = try count(name, on: console)
            if count >= wanted { return }
            // A round is many steps.
            let sign = name == "rounds" ? try self.count("steps", on: console) : count
            if sign != last { deadline = Clock.monotonic() + 120_000_000_000 }
            last = sign
            try #require(Clock.monotonic() < deadline, "the guest does not get on: \(console.tail)")
            usleep(200_000)
        }
    }

    /// Migrates a machine to the one that listens on `channel`, and waits until that is over.
    /// - Parameter byPostcopy: at once, and its memory afterwards, as the target asks for it.
    private func migrate(_ source: QEMU, to channel: String, byPostcopy: Bool) throws {
        let monitor = try source.monitor()
        if byPostcopy {
            // Its memory must not all have gone before the second command comes. Afterwards there is
            // no limit.
            try monitor.execute(
                #"{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 1048576}}"#)
        }
        try monitor.execute(
            #"{"execute": "migrate", "arguments": {"uri": "unix:\#(channel)"}}"#)
        if byPostcopy { try monitor.execute(#"{"execute": "migrate-start-postcopy"}"#) }
        let deadline = Clock.monotonic() + 120_000_000_000
        while true {
            let state = try monitor.execute(#"{"execute": "query-migrate"}"#)
            if state.contains("\"completed\"") {
                #expect(state.contains(#""postcopy-requests": 0,"#) != byPostcopy, "\(state)")
                return
            }
            try #require(!state.contains("\"failed\""), "\(state)")
            try #require(Clock.monotonic() < deadline, "\(state)")
            usleep(100_000)
        }
    }
}

/// A switch whose up-link is a host of its own, in a network namespace: 10.0.2.1, with a web server.
private final class SwitchedHost {
    let socket: String
    /// The checksum of the page that it serves.
    let sum: String
    private let space: NetworkNamespace
    private let program: RunningProgram
    private let server: RunningProgram

    init(in folder: TestFolder) throws {
        space = try NetworkNamespace()
        socket = folder["switch"]
        program = try RunningProgram.apus(
            ["switch", "--listen", socket, "--uplink", "tap,ifname=tap0"], prefix: space.prefix)
        let deadline = Clock.monotonic() + 10_000_000_000
        while (try? space.run("ip", "addr", "add", "10.0.2.1/24", "dev", "tap0")) == nil {
            guard program.isRunning, Clock.monotonic() < deadline else {
                throw TestFailure("no switch: \(program.errorText)")
            }
            usleep(20_000)
        }
        let page = try folder.file(
            "page", (0..<(1 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 7 ^ $0 >> 9) })
        sum = try md5(of: page)
        server = try RunningProgram(
            "/usr/bin/env",
            space.prefix + [
                Guest.path("busybox"), "httpd", "-f", "-p", "10.0.2.1:8080", "-h", folder.path,
            ])
    }
}
