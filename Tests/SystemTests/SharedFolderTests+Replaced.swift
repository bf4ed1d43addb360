import Core
import Foundation
import TestSupport
import Testing

// Other processes in the place of the one that serves a guest.
extension SharedFolderTests {
    /// Five by default; many more by hand.
    private static let kills = Setting.environment["APUS_KILLS"].flatMap { Int($0) } ?? 5

    @Test(
        "a guest works on with its files when the process is killed", .timeLimit(.minutes(30)))
    func killed() throws {
        let disk = folder["root.ext4"]
        try Guest.makeDisk(disk)
        try GuestTool.install("fswork", on: disk, folder)
        let guest = try start()
        guest.send("(fswork /run/m 3 >/tmp/result 2>&1; touch /tmp/over) &")
        for kill in 1...Self.kills {
            usleep(useconds_t.random(in: 300_000...900_000))
            let id = try #require(process(of: guest), "kill \(kill)")
            if kill % 2 == 0 {
                // Who keeps the files for the next one is replaced as well. Without one, a kill loses
                // them.
                let keeper = try awaitKeeper(of: id, after: nil)
                Glibc.kill(keeper, SIGKILL)
                _ = try awaitKeeper(of: id, after: keeper)
                try awaitRest(of: id)
            }
            Glibc.kill(id, SIGKILL)
            var waits = 0
            while process(of: guest).map({ $0 == id }) ?? true, waits < 1000 {
                usleep(10_000)
                waits += 1
            }
        }
        try finishWork(of: guest)
    }

    @Test(
        "a guest works on with its files when the process is replaced", .timeLimit(.minutes(15)))
    func replaced() throws {
        let disk = folder["root.ext4"]
        try Guest.makeDisk(disk)
        try GuestTool.install("fswork", on: disk, folder)
        let guest = try start()
        guest.send("(fswork /run/m 3 >/tmp/result 2>&1; touch /tmp/over) &")
        for round in 1...4 {
            usleep(useconds_t.random(in: 200_000...600_000))
            let id = try #require(process(of: guest), "round \(round)")
            guest.apus.kill(SIGUSR2)
            let deadline = Date() + 20
            while process(of: guest).map({ $0 == id }) ?? true {
                guard Date() < deadline else { throw TestFailure("round \(round): it stays") }
                usleep(10_000)
            }
        }
        try finishWork(of: guest)
        #expect(guest.apus.errorText == "")
    }

    private func keeper(of process: Int32) -> Int32? {
        RunningProgram.children(of: process).first { $0.arguments == ["apus-keeper"] }?.id
    }

    /// Waits for a keeper that is another one than `old`.
    private func awaitKeeper(of process: Int32, after old: Int32?) throws -> Int32 {
        let deadline = Date() + 20
        while true {
            if let keeper = keeper(of: process), keeper != old { return keeper }
            guard Date() < deadline else { throw TestFailure("\(process) has no keeper") }
            usleep(10_000)
        }
    }

    /// Waits until a process's first thread waits for something to do: it then has noted its keeper.
    private func awaitRest(of process: Int32) throws {
        let deadline = Date() + 20
        while true {
            let line = try String(contentsOfFile: "/proc/\(process)/stat", encoding: .utf8)
            if line.split(separator: ")").last?.hasPrefix(" S ") ?? false { return }
            guard Date() < deadline else { throw TestFailure("\(process) does not rest: \(line)") }
            usleep(1000)
        }
    }

    /// Ends `fswork`, which must have met no error.
    func finishWork(of guest: Guest) throws {
        usleep(300_000)
        _ = try onHost("touch stop")
        let result = try guest.run(
            "until [ -e /tmp/over ]; do sleep 1; done; cat /tmp/result"
        ).split(separator: " ")
        #expect(result.filter { $0 == "clean" }.count == 3, "\(result)")
        #expect(result.count == 6, "\(result)")
        #expect(try onHost("find . -type f") == "./stop")
        #expect(try guest.powerOff() == 0)
    }

    @Test(
        "a guest's locks are the host's, also when the process is killed", .timeLimit(.minutes(15)))
    func locks() throws {
        let disk = folder["root.ext4"]
        try Guest.makeDisk(disk)
        try GuestTool.install("flock", on: disk, folder)
        let guest = try start(",flock=on")
        guest.send("cd /run/m")
        guest.send(
            "flock lock sh -c 'touch held; until [ -e go ]; do sleep 1; done; echo first >>order' &"
        )
        _ = try guest.run("until [ -e held ]; do sleep 1; done; ls")
        guest.send("flock lock sh -c 'echo second >>order' &")
        #expect(try onHost("flock -n lock true; echo $?") == "1")
        let id = try #require(process(of: guest))
        Glibc.kill(id, SIGKILL)
        #expect(try guest.run("flock -n lock true; echo $?") == "1")
        #expect(process(of: guest) != id)
        #expect(try onHost("flock -n lock true; echo $?; cat order 2>/dev/null") == "1")
        _ = try onHost("touch go")
        #expect(
            try guest.run("until [ $(wc -l <order) = 2 ]; do sleep 1; done; cat order")
                == "first second")
        #expect(try onHost("flock -n lock true; echo $?") == "0")
        #expect(try guest.powerOff() == 0)
    }
}
