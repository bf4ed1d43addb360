import Core
import Glibc
import TestSupport
import Testing

/// Live migration of guests that use a shared folder, between two machines of a QEMU that can migrate
/// such devices.
@Suite(.needs(.guest, .newQEMU), .serialized)
struct QEMUFolderMigrationTests {
    private let folder: TestFolder
    private let share: String

    init() throws {
        folder = try TestFolder()
        share = folder["share"]
        #expect(unsafe mkdir(share, 0o755) == 0)
    }

    /// A machine with the processes of its devices.
    private struct Station {
        let folders: RunningProgram
        let disk: BlockServer
        let machine: QEMU
        /// Where its guest comes from.
        let channel: String

        var console: GuestConsole { machine.console }
    }

    /// - Parameters:
    ///   - options: of the shared folder's process.
    ///   - share: the folder, if it is another one.
    private func start(
        _ name: String, _ options: [String], isTarget: Bool = true, share: String? = nil
    ) throws -> Station {
        let socket = folder["\(name).fs"]
        let folders = try RunningProgram.apus(
            [
                "fs", "--socket-path=\(socket)", "--fs",
                "path=\(share ?? self.share),posix-lock=on,flock=on",
            ] + options)
        try folders.awaitListening(at: socket)
        let disk = try BlockServer(
            socket: folder["\(name).disk"], disk: "path=\(folder["root.ext4"]),lock=off")
        let channel = folder["\(name).in"]
        let machine = try QEMU(
            name, in: folder, guest: Means.guest, program: Means.newQEMU,
            devices: QEMU.disk(disk.socket) + [
                "-chardev", "socket,id=fs,path=\(socket)",
                "-device", "vhost-user-fs-pci,chardev=fs,tag=share",
            ] + (isTarget ? ["-incoming", "unix:\(channel)"] : []))
        let deadline = Clock.monotonic() + 10_000_000_000
        while isTarget, !Means.exists(channel), Clock.monotonic() < deadline { usleep(5_000) }
        if isTarget {
            try machine.monitor().execute(
                #"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": "#
                    + #"[{"capability": "return-path", "state": true}]}}"#)
        }
        return Station(folders: folders, disk: disk, machine: machine, channel: channel)
    }

    /// Migrates a guest that works with files, which it goes on to do.
    /// - Parameter complaints: how many lines the shared folder's process has written.
    /// - Returns: where it is.
    private func migrate(
        _ source: Station, to name: String, _ options: [String], complaints: Int = 0
    ) throws -> Station {
        let target = try start(name, options)
        let before = try steps(of: source)
        let end = try source.machine.migrate(to: target.channel)
        try #require(end.contains("\"completed\""), "\(end) \(source.folders.errorText)")
        try awaitSteps(before + 3, of: target)
        #expect(isLocked)
        let errors = source.folders.errorText
        #expect(errors.split(separator: "\n").count == complaints, "\(errors)")
        return target
    }

    private func steps(of station: Station) throws -> Int {
        Int(try station.console.ask("cat /run/steps 2>/dev/null")) ?? 0
    }

    /// Waits for as long as it takes if something moves.
    private func awaitSteps(_ wanted: Int, of station: Station) throws {
        var last = -1
        var deadline: UInt64 = 0
        while true {
            let steps = try steps(of: station)
            if steps >= wanted { return }
            if steps != last { deadline = Clock.monotonic() + 120_000_000_000 }
            last = steps
            let result = try station.console.ask("cat /run/held /run/work")
            try #require(
                Clock.monotonic() < deadline && !result.contains("wrong"),
                "\(result) \(station.folders.errorText)")
            usleep(100_000)
        }
    }

    /// Whether the host's programs see the lock that the guest has.
    private var isLocked: Bool {
        let file = OwnedFD(owning: unsafe open("\(share)/held/whole", O_RDONLY))
        return flock(file.rawValue, LOCK_SH | LOCK_NB) == -1
    }

    /// Programs that work with files, and stop when they are told.
    private func work(_ station: Station, _ kind: String = "") throws {
        try station.console.type(
            "(held /run/m /run/steps \(kind) >/run/held 2>&1; touch /run/over1) & "
                + "(fswork /run/m 2 \(kind) >/run/work 2>&1; touch /run/over2) &")
        try awaitSteps(5, of: station)
    }

    private func endWork(_ station: Station) throws {
        let result = try station.console.ask(
            "touch /run/m/stop; until [ -e /run/over1 -a -e /run/over2 ]; do usleep 50000; done; "
                + "cat /run/held /run/work; cat /run/steps; rm -r /run/over* /run/steps /run/m/*")
        let lines = result.split(separator: "\n")
        try #require(lines.count == 4, "\(result)")
        #expect(lines.dropLast().allSatisfy { $0.hasPrefix("clean ") }, "\(result)")
        #expect(lines[0] == "clean \(lines[3])")
    }

    @Test(
        "a guest migrates while it works with files of all kinds, or stays",
        .timeLimit(.minutes(15)))
    func migrates() throws {
        try Guest.makeDisk(folder["root.ext4"])
        for tool in ["held", "fswork"] {
            try GuestTool.install(tool, on: folder["root.ext4"], folder)
        }
        var station = try start("first", [], isTarget: false)
        try station.machine.awaitShell()
        #expect(try station.console.ask(SharedFolderTests.mount) == "ok")
        try stay(station)
        // Only root can open files by handles, and thereby those without a name.
        let handles =
            geteuid() == 0
            ? [
                "--sandbox=off", "--inode-file-handles=mandatory", "--migration-mode=file-handles",
            ] : []
        try work(station, "named")
        try stayWithLocks(station)
        station = try migrate(station, to: "second", handles, complaints: 1)
        try endWork(station)
        try work(station, handles.isEmpty ? "named" : "")
        station = try migrate(station, to: "third", handles)
        try endWork(station)
        #expect(try station.console.ask("dmesg | grep -c -e 'I/O error' -e tale") == "0")
        #expect(station.folders.errorText == "")
        try station.console.type("umount /run/m && exit")
        #expect(station.machine.awaitEnd() == .exited(0))
    }

    /// A guest with a file that cannot be found without its name stays where it is, and goes on.
    private func stay(_ source: Station) throws {
        let hold =
            "(exec 9<>/run/m/gone; rm /run/m/gone; echo 1 >&9; touch /run/held; "
            + "until [ -e /run/m/let ]; do usleep 50000; done; echo 2 >&9; cat /proc/self/fd/9 | wc -c "
            + ">/run/gone) &"
        try source.console.type(hold)
        #expect(
            try source.console.ask("until [ -e /run/held ]; do usleep 50000; done; echo ok") == "ok"
        )
        #expect(try refusal(of: start("refused", []), source) == "")
        #expect(
            source.folders.errorText.contains("1 files that the guest has open are removed"),
            "\(source.folders.errorText)")
        #expect(
            try source.console.ask(
                "touch /run/m/let; until [ -s /run/gone ]; do usleep 50000; done; cat /run/gone; "
                    + "rm /run/m/let") == "4")
    }

    /// Where the folder is another one, the guest stays as well, and has its locks again.
    private func stayWithLocks(_ source: Station) throws {
        #expect(unsafe mkdir(folder["other"], 0o755) == 0)
        let refusal = try refusal(of: start("other", [], share: folder["other"]), source)
        #expect(refusal.contains("it is that of another folder"))
        try awaitSteps(steps(of: source) + 3, of: source)
        #expect(isLocked)
    }

    /// Tries to migrate to a machine that does not take the guest.
    /// - Returns: what its folder's process says.
    private func refusal(of target: Station, _ source: Station) throws -> String {
        let end = try source.machine.migrate(to: target.channel)
        #expect(end.contains("\"failed\""), "\(end)")
        #expect(target.machine.awaitEnd() == .exited(1))
        return target.folders.errorText
    }
}
