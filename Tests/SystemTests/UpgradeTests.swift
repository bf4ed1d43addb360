import Core
import Foundation
import Glibc
import TestSupport
import Testing

@Suite(
    "Backends that hand over to new ones while the guest works", .needs(.guest),
    .serialized)
struct UpgradeTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    @Test("SIGUSR2 replaces the processes of a disk and a console in use, and nothing is lost")
    func processes() throws {
        let path = folder["tty"]
        let guest = try Guest(["--console", "listen=\(path),replay=64K"], in: folder)
        try guest.awaitShell()
        try guest.loadConsoleDriver()
        guest.send("(i=0; while :; do i=$((i + 1)); echo \"line $i x\"; done >/dev/hvc0) &")
        guest.beginWork(
            "for i in 1 2 3; do dd if=/dev/urandom of=/root/f$i bs=16k count=256 conv=fsync "
                + "2>/dev/null; done; sync")
        var last = 0
        for _ in 0..<6 {
            let reader = try SocketReader(path)
            try reader.read(bytes: 2000)
            // What the guest printed while nobody read is shown, and all of it.
            let numbers = reader.numbers
            let first = try #require(numbers.first)
            #expect(last == 0 || first <= last + 1)
            #expect(numbers == Array(first...(try #require(numbers.last))))
            try guest.upgradeBackends()
            last = try reader.readToEnd().numbers.last ?? 0
        }
        try guest.endWork()
        try guest.checkFiles(["f1", "f2", "f3"])
        #expect(guest.apus.errorText == "")
    }

    @Test("a disk's foreign backend is replaced by the one that listens in its place")
    func socket() throws {
        let path = folder["root.ext4"]
        try Guest.makeDisk(path)
        let socket = folder["disk.sock"]
        var backend = try serve(path, at: socket)
        let guest = try Guest(diskArgument: "socket=\(socket)", in: folder)
        try guest.awaitShell()
        guest.beginWork(
            "dd if=/dev/urandom of=/root/f1 bs=16k count=256 conv=fsync 2>/dev/null; sync")
        for _ in 0..<3 {
            // The present one goes on with its connection.
            unsafe unlink(socket)
            let new = try serve(path, at: socket)
            guest.apus.kill(SIGUSR2)
            let deadline = Date() + 20
            while try backend.isConnected {
                guard Date() < deadline else { throw TestFailure("the old one stays") }
                usleep(20_000)
            }
            backend.kill()
            backend = new
            usleep(100_000)
        }
        try guest.endWork()
        try guest.checkFiles(["f1"])
        #expect(guest.apus.errorText == "")
    }

    private func serve(_ image: String, at socket: String) throws -> RunningProgram {
        // The lock is the present one's.
        let program = try RunningProgram.apus([
            "block", "--socket-path", socket, "--disk", "path=\(image),lock=off",
        ])
        try program.awaitListening(at: socket)
        return program
    }
}

extension RunningProgram {
    /// Waits until this program listens at a path. The file is there before that, and another program
    /// may listen at one that was there.
    func awaitListening(at path: String) throws {
        let deadline = Date() + 10
        while try !isListening(at: path) {
            guard isRunning, Date() < deadline else {
                throw TestFailure("nobody listens at \(path): \(errorText)")
            }
            usleep(5_000)
        }
    }

    private func isListening(at path: String) throws -> Bool {
        let folder = "/proc/\(id)/fd"
        let numbers = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        let own = numbers.compactMap {
            try? FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/\($0)")
        }
        // Number, references, protocol, flags (0x10000: it listens), type, state, inode, path.
        let all = try String(contentsOfFile: "/proc/net/unix", encoding: .utf8)
        for line in all.split(separator: "\n") {
            let fields = line.split(separator: " ").map(String.init)
            guard fields.count == 8, fields[3] == "00010000", fields[7] == path else { continue }
            if own.contains("socket:[\(fields[6])]") { return true }
        }
        return false
    }

    /// Whether it holds guest memory that a front end has shared.
    var isConnected: Bool {
        get throws {
            try String(contentsOfFile: "/proc/\(id)/maps", encoding: .utf8)
                .contains("memfd:guest-memory")
        }
    }
}

extension Guest {
    /// Has all backends replaced.
    fileprivate func upgradeBackends() throws {
        func processes() -> Set<Int32> {
            let names = ["apus-block", "apus-console"]
            return Set(apus.children.filter { names.contains($0.arguments.first ?? "") }.map(\.id))
        }
        let old = processes()
        apus.kill(SIGUSR2)
        let deadline = Date() + 20
        while true {
            let now = processes()
            if now.count == old.count, now.isDisjoint(with: old) { return }
            guard Date() < deadline else { throw TestFailure("\(old) became \(now)") }
            usleep(10_000)
        }
    }

    /// Ends the guest and compares files as it saw them with those on the disk.
    fileprivate func checkFiles(_ names: [String]) throws {
        _ = try run("echo 3 > /proc/sys/vm/drop_caches; echo ok")
        let sums = try run(
            "for i in \(names.joined(separator: " ")); do md5sum < /root/$i; done", seconds: 300)
        #expect(try run("dmesg | grep -c 'I/O error'") == "0")
        #expect(try powerOff() == 0)
        #expect(try checkDisk() == "")
        for (name, sum) in zip(names, sums.split(separator: "-")) {
            _ = try file("/root/\(name)")
            #expect(
                try md5(of: "\(folder.path)/copy") == sum.trimmingCharacters(in: .whitespaces))
        }
    }
}
