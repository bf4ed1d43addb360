import Core
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

/// How often something is repeated: a few times, or as often as the environment says, for long runs
/// by hand: `APUS_KILLS=200 ./test RepeatedKills`.
enum Repetition {
    static let kills = count("APUS_KILLS", default: 3)
    static let reboots = count("APUS_REBOOTS", default: 1)
    /// Sent by each iperf3.
    static let megabytes = count("APUS_MEGABYTES", default: 16)
    static let isLong = Setting.environment["APUS_MEGABYTES"] != nil

    private static func count(_ name: String, default count: Int) -> Int {
        Setting.environment[name].flatMap { Int($0) } ?? count
    }
}

/// A disk, a console, a random number generator and a socket device, all of them in use.
@Suite("Back ends that die or are replaced again and again", .needs(.guest), .serialized)
struct RepeatedKillTests {
    private static let programs = ["apus-block", "apus-console", "apus-rng", "apus-vsock"]
    private let folder: TestFolder
    private let guest: Guest

    init() throws {
        folder = try TestFolder()
        let disk = folder["root.ext4"]
        try Guest.makeDisk(disk)
        try GuestTool.install("vsock", on: disk, folder)
        guest = try Guest(
            [
                "--console", "listen=\(folder["tty"])", "--rng",
                "--vsock", "5,path=\(folder["vsock"])",
            ], in: folder)
    }

    /// Loads the drivers.
    private func prepare() throws {
        try guest.awaitShell()
        try guest.loadConsoleDriver()
        let answer = try guest.run(
            "modprobe virtio-rng && modprobe vmw_vsock_virtio_transport && echo loaded")
        #expect(answer == "loaded")
    }

    /// Keeps all devices busy, with rests in which the guest's one CPU gets to the shell; what must not
    /// be is noted in `/run/bad`.
    private func startWork() {
        // What is written must be what is read, from the cache and from the disk.
        guest.send(
            "(n=0; until [ -e /run/stop ]; do n=$((n + 1)); echo $n >/run/disk.now;"
                + " dd if=/dev/urandom of=/root/f bs=16k count=64 conv=fsync 2>/dev/null"
                + " || echo write >>/run/bad; a=$(md5sum </root/f);"
                + " echo 3 >/proc/sys/vm/drop_caches; b=$(md5sum </root/f);"
                + " [ \"$a\" = \"$b\" ] || echo differ >>/run/bad; usleep 50000;"
                + " done; echo $n >/run/disk) &")
        guest.send(
            "(n=0; until [ -e /run/stop ]; do n=$((n + 1)); echo $n >/run/rng.now;"
                + " c=$(dd if=/dev/hwrng bs=512 count=16 2>/dev/null | wc -c);"
                + " [ $c = 8192 ] || echo rng $c >>/run/bad; usleep 20000;"
                + " done; echo $n >/run/rng) &")
        guest.send(
            "(i=0; until [ -e /run/stop ]; do i=$((i + 1)); echo \"line $i x\""
                + " || echo tty >>/run/bad; [ $((i % 50)) != 0 ] || usleep 20000;"
                + " done >/dev/hvc0; echo $i >/run/tty) &")
        // Connections end with the process that served them; making others must go on.
        guest.send(
            "(n=0; until [ -e /run/stop ]; do echo $n | /bin/vsock 1234 2>/dev/null"
                + " && n=$((n + 1)) && echo $n >/run/vsock.now; usleep 20000; done;"
                + " echo $n >/run/vsock) &")
    }

    private func process(_ name: String) -> Int32? {
        guest.apus.child(name)
    }

    @Test(
        "of what guests do with them, nothing is lost and nothing fails", .timeLimit(.minutes(60)))
    func kills() throws {
        let (listener, reader) = try begin()
        var random = SeededGenerator(0x6b69_6c6c)
        var kills = Dictionary(uniqueKeysWithValues: Self.programs.map { ($0, 0) })
        var last: [String: Int32] = [:]
        let deadline = Date() + 30 + 10 * Double(Repetition.kills)
        while let name = kills.filter({ $0.value < Repetition.kills }).keys.randomElement(
            using: &random)
        {
            try #require(Date() < deadline, "only \(kills) of \(Repetition.kills)")
            usleep(UInt32.random(in: 1000...120_000, using: &random))
            try takeAll(listener, reader)
            guard let id = process(name), last[name] != id else { continue }
            last[name] = id
            kill(id, SIGKILL)
            kills[name, default: 0] += 1
        }
        try finish(listener, reader)
    }

    @Test(
        "of what guests do while all are replaced, nothing is lost and nothing fails",
        .timeLimit(.minutes(60)))
    func upgrades() throws {
        let (listener, reader) = try begin()
        var random = SeededGenerator(0x7570_6772)
        for count in 1...Repetition.kills {
            usleep(UInt32.random(in: 1000...500_000, using: &random))
            let old = Self.programs.compactMap(process)
            guest.apus.kill(SIGUSR2)
            let deadline = Date() + 30
            while true {
                try takeAll(listener, reader)
                let new = Self.programs.compactMap(process)
                if new.count == Self.programs.count, Set(new).isDisjoint(with: old) { break }
                try #require(Date() < deadline, "upgrade \(count): \(old) became \(new)")
                usleep(10_000)
            }
        }
        try finish(listener, reader)
        #expect(guest.apus.errorText == "")
    }

    /// Keeps all devices busy, with somebody at the host's end of each.
    private func begin() throws -> (UnixListener, ConsoleLines) {
        try prepare()
        let listener = try UnixListener(path: folder["vsock_1234"])
        let reader = ConsoleLines(folder["tty"])
        startWork()
        return (listener, reader)
    }

    /// Takes what has come from the guest.
    private func takeAll(_ listener: UnixListener, _ reader: ConsoleLines) throws {
        while try listener.accept() != nil {}
        try reader.read()
        guest.apus.takeOutput()
    }

    /// Everything goes on, and the disk is whole.
    private func finish(_ listener: UnixListener, _ reader: ConsoleLines) throws {
        // On a thread of its own: the tests' few may all be taken by other machines.
        let isOver = Atomic(false)
        let accepting = try Core.Thread(name: "accepting") {
            while !isOver.load(ordering: .relaxed) {
                while (try? listener.accept()) ?? nil != nil {}
                usleep(1000)
            }
        }
        defer {
            isOver.store(true, ordering: .relaxed)
            accepting.join()
        }
        try expectWork(reader)
        #expect(try guest.powerOff() == 0)
        #expect(try guest.checkDisk() == "")
    }

    /// Ends the work, of which everything must have got on since the last kill.
    private func expectWork(_ reader: ConsoleLines) throws {
        let seen = reader.last
        try reader.read(until: seen + 1000, seconds: 300)
        // A whole turn of each loop; of the console's there were many.
        _ = try guest.run(
            "for f in disk rng vsock; do until a=$(cat /run/$f.now) && [ \"$a\" ];"
                + " do usleep 50000; done 2>/dev/null;"
                + " until [ $(cat /run/$f.now) -gt $((a + 2)) ]; do usleep 50000; done 2>/dev/null;"
                + " done", seconds: 300)
        let counts = try guest.run(
            "touch /run/stop; for f in disk rng tty vsock;"
                + " do until [ -s /run/$f ]; do usleep 50000; done; cat /run/$f; done", seconds: 120
        )
        let numbers = counts.split(separator: " ").compactMap { Int($0) }
        #expect(numbers.count == 4 && numbers.allSatisfy { $0 > 2 }, "\(counts)")
        #expect(try guest.run("cat /run/bad 2>/dev/null; dmesg | grep -ci 'i/o error'") == "0")
        print("\(Repetition.kills) times each; disk, rng, tty, vsock: \(counts)")
    }

    @Test("reboots leave every session as it was", .timeLimit(.minutes(60)))
    func reboots() throws {
        let reader = ConsoleLines(folder["tty"])
        var processes: [Int32?] = []
        for round in 0...Repetition.reboots {
            try prepare()
            if processes.isEmpty { processes = Self.programs.map(process) }
            #expect(Self.programs.map(process) == processes, "after \(round) reboots")
            let listener = try UnixListener(path: folder["vsock_1234"])
            startWork()
            try reader.read(until: 500, seconds: 300, fromStart: true)
            let deadline = Date() + 60
            while try listener.accept() == nil {
                try #require(Date() < deadline, "no connection after \(round) reboots")
                usleep(10_000)
            }
            #expect(try guest.run("cat /run/bad 2>/dev/null; dmesg | grep -ci 'i/o error'") == "0")
            if round < Repetition.reboots { guest.send("reboot -f") }
        }
        guest.apus.kill(SIGTERM)
        _ = try guest.apus.wait()
        print("reboots: \(Repetition.reboots)")
    }
}

/// Reads numbered lines from a console's socket, again and again when its process has been killed.
private final class ConsoleLines {
    private let path: String
    private var socket: UnixSocket?
    private var rest: [UInt8] = []
    /// The number of the last line.
    private(set) var last = 0

    init(_ path: String) { self.path = path }

    /// Reads what there is.
    func read() throws {
        do {
            if socket == nil {
                socket = try UnixSocket(connectingTo: path)
                rest = []
            }
            while let socket, socket.waitReadable(timeoutMilliseconds: 0) {
                guard let piece = try socket.receive(upTo: 1 << 16)?.bytes, !piece.isEmpty else {
                    self.socket = nil
                    return
                }
                take(piece)
            }
        } catch {
            socket = nil
        }
    }

    /// - Parameter fromStart: the guest has begun anew.
    func read(until number: Int, seconds: Double, fromStart: Bool = false) throws {
        if fromStart { last = 0 }
        let deadline = Date() + seconds
        while last < number {
            guard Date() < deadline else {
                throw TestFailure("the console has come to line \(last) only, not \(number)")
            }
            try read()
            usleep(2000)
        }
    }

    private func take(_ piece: [UInt8]) {
        let lines = (rest + piece).split(
            separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        rest = Array(lines.last ?? [])
        for line in lines.dropLast() {
            let words = String(decoding: line, as: UTF8.self).split(separator: " ")
            if words.count >= 3, words[0] == "line", let number = Int(words[1]) { last = number }
        }
    }
}
