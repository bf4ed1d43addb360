import Core
import Foundation
import TestSupport
import Testing

/// What becomes of a machine's processes when one of them ends, and of the sockets between them.
@Suite("The family of processes")
struct SandboxFamilyTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    private func process(_ name: String, of guest: Guest) throws -> Int32 {
        try #require(guest.apus.child(name))
    }

    private func waitForEnd(of id: Int32) {
        let deadline = Date() + 10
        while isRunning(id), Date() < deadline { usleep(10_000) }
        #expect(!isRunning(id))
    }

    @Test(
        "without the launcher the guest goes on, and a disk that loses its process says so once",
        .needs(.guest))
    func launcherDeath() throws {
        let guest = try Guest(in: folder)
        try guest.awaitShell()
        let (launcher, backend) = try (
            process("apus-launcher", of: guest), process("apus-block", of: guest)
        )
        kill(launcher, SIGKILL)
        waitForEnd(of: launcher)
        let write = "dd if=/dev/zero of=/f bs=1M count=4 conv=fsync 2>/dev/null; echo ok"
        #expect(try guest.run(write) == "ok")
        #expect(isRunning(backend))
        #expect(guest.apus.errorText.isEmpty)
        kill(backend, SIGKILL)
        waitForEnd(of: backend)
        let sentence =
            "apus: error: device: the process of disk '\(guest.disk)' was killed by signal 9 and"
            + " cannot be started again, because the launcher of apus's processes does not answer"
            + " any more; the guest's requests to the device wait, so end the guest and start it"
            + " again\n"
        let deadline = Date() + 20
        while !guest.apus.errorText.contains(sentence), Date() < deadline { usleep(20_000) }
        // Long enough for another attempt.
        usleep(3_000_000)
        let told = guest.apus.errorText
        #expect(
            told
                == "apus: warning: vhost-user: the back end of disk '\(guest.disk)' is lost: the peer"
                + " closed the connection\n" + sentence)
        // What needs no disk works.
        #expect(try guest.run("echo $((6 * 7))") == "42")
        guest.apus.kill(SIGTERM)
        #expect(try guest.apus.wait(seconds: 30) == 6)
    }

    @Test(
        "a launcher that does not answer is not waited for for ever", .needs(.guest)
    )
    func launcherStopped() throws {
        let guest = try Guest(in: folder)
        try guest.awaitShell()
        let (launcher, backend) = try (
            process("apus-launcher", of: guest), process("apus-block", of: guest)
        )
        // What the shell needs of the disk is in memory then.
        #expect(try guest.run("echo $((6 * 7))") == "42")
        kill(launcher, SIGSTOP)
        kill(backend, SIGKILL)
        let deadline = Date() + 30
        while !guest.apus.errorText.contains("cannot be started again"), Date() < deadline {
            usleep(20_000)
        }
        #expect(guest.apus.errorText.contains("cannot be started again"))
        // Its late answer starts nothing that would be taken for the disk's process.
        kill(launcher, SIGCONT)
        #expect(try guest.run("echo $((6 * 7))") == "42")
        guest.apus.kill(SIGTERM)
        #expect(try guest.apus.wait(seconds: 30) == 6)
        waitForEnd(of: launcher)
    }

    @Test(
        "a process that cannot be started now is started later, and no other end is made up for it",
        .needs(.guest, .root))
    func launcherShort() throws {
        let guest = try Guest(in: folder)
        try guest.awaitShell()
        let (launcher, backend) = try (
            process("apus-launcher", of: guest), process("apus-block", of: guest)
        )
        // It has no room for the descriptor to pass on.
        _ = try runTool("prlimit", ["--pid", "\(launcher)", "--nofile=3:"])
        kill(backend, SIGKILL)
        let deadline = Date() + 20
        let sentence = "could not be started (clone: "
        while !guest.apus.errorText.contains(sentence), Date() < deadline { usleep(20_000) }
        #expect(guest.apus.errorText.contains("was killed by signal 9 and is not started again: "))
        #expect(guest.apus.errorText.contains(sentence))
        _ = try runTool("prlimit", ["--pid", "\(launcher)", "--nofile=16384:"])
        #expect(
            try guest.run("dd if=/dev/vda of=/dev/null bs=1M count=4 2>/dev/null; echo ok") == "ok")
        #expect(!guest.apus.errorText.contains("exited with status"))
        #expect(try guest.powerOff() == 0)
    }

    @Test("a backend's end takes nobody else along, the VMM's orderly end all", .needs(.guest))
    func backendDeath() throws {
        let guest = try Guest(in: folder)
        try guest.awaitShell()
        let (launcher, backend) = try (
            process("apus-launcher", of: guest), process("apus-block", of: guest)
        )
        kill(backend, SIGKILL)
        waitForEnd(of: backend)
        #expect(
            try guest.run("dd if=/dev/vda of=/dev/null bs=1M count=4 2>/dev/null; echo ok") == "ok")
        #expect(isRunning(launcher))
        #expect(try process("apus-block", of: guest) != backend)
        let children = guest.apus.children.map(\.id)
        #expect(children.count == 2)
        #expect(try guest.powerOff() == 0)
        for id in children { waitForEnd(of: id) }
    }

    @Test(
        "a signal to the whole process group ends the machine alone, and no back end is missed",
        .needs(.guest))
    func groupSignal() throws {
        let disks = try (0..<3).map { try folder.sparse("disk\($0)", size: 1 << 20) }
        let kernel = try folder.file("kernel", TinyKernel.printsAndHalts)
        // It makes a group of its own, and sends it the signal that it gets.
        let timeout = try RunningProgram(
            "/usr/bin/env",
            ["timeout", "300", try #require(Setting.binary), "--kernel", kernel]
                + disks.flatMap { ["--disk", "path=\($0)"] })
        try timeout.waitFor("!")
        timeout.kill(SIGTERM)
        // The machine's code.
        #expect(try timeout.wait(seconds: 30) == 6)
        #expect(timeout.errorText == "")
    }

    // MARK: Sockets

    @Test("a socket in the root folder is refused in a sandbox", .needs(.executable))
    func rootSocket() throws {
        let kernel = try folder.file("kernel", TinyKernel.printsAndPowersOff)
        let arguments = ["--kernel", kernel, "--disk", "socket=/apus-no-such.sock"]
        let apus = try RunningProgram.apus(arguments)
        #expect(try apus.wait(seconds: 20) == 1)
        #expect(
            apus.errorText
                == "apus: error: the disk at socket '/apus-no-such.sock' cannot be used: apus sees"
                + " only the socket's folder once it has locked itself in, and that must not be the"
                + " root; put the socket into a folder, or use --sandbox off\n")
        let free = try RunningProgram.apus(arguments + ["--sandbox", "off"])
        #expect(try free.wait(seconds: 20) == 1)
        #expect(free.errorText.contains("no back end answers at /apus-no-such.sock"))
    }

    @Test(
        "a backend of its own is locked in as well, and its socket's place is used again",
        .needs(.executable), arguments: ["on", "off"])
    func ownBackend(sandbox: String) throws {
        let image = try folder.sparse("image", size: 1 << 20)
        let socket = "\(folder.path)/block.sock"
        for _ in 0..<2 {
            let block = try RunningProgram.apus([
                "block", "--socket-path=\(socket)", "--disk", "path=\(image)", "--sandbox", sandbox,
            ])
            let deadline = Date() + 10
            while rights(block.id)["Seccomp"] != "2", Date() < deadline { usleep(5_000) }
            #expect(rights(block.id) == SandboxTests.wanted)
            #expect(FileManager.default.fileExists(atPath: socket))
            let task = "/proc/\(block.id)/task"
            for thread in try FileManager.default.contentsOfDirectory(atPath: task) {
                #expect(rights(try #require(Int32(thread))) == SandboxTests.wanted)
            }
            block.kill(SIGTERM)
            #expect(try block.wait(seconds: 20) == 0)
            // A process that could remove it could remove everything beside it.
            #expect(FileManager.default.fileExists(atPath: socket) == (sandbox == "on"))
        }
    }

    private func rights(_ id: Int32) -> [String: String] {
        (try? SandboxTests.rights(id)) ?? [:]
    }
}
