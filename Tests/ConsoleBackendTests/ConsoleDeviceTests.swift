import Core
import Glibc
import TestSupport
import Testing

@testable import ConsoleBackend

@Suite("Console") struct ConsoleDeviceTests {
    private static let agent = "org.qemu.guest_agent.0"

    @Test("ports are introduced as the guest asks, and say who is there")
    func conversation() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig(
            "null,ports=[\"listen=\(folder["agent"]),name=\(Self.agent)\"]")
        try rig.control(0, ConsoleEvent.deviceReady, 1)
        #expect(try rig.message() == ConsoleMessage(port: 0, event: ConsoleEvent.deviceAdd))
        #expect(try rig.message() == ConsoleMessage(port: 1, event: ConsoleEvent.deviceAdd))
        try rig.control(0, ConsoleEvent.portReady, 1)
        #expect(try rig.message() == ConsoleMessage(port: 0, event: ConsoleEvent.consolePort))
        #expect(try rig.message() == ConsoleMessage(port: 0, event: ConsoleEvent.portOpen))
        try rig.control(1, ConsoleEvent.portReady, 1)
        #expect(
            try rig.message()
                == ConsoleMessage(
                    port: 1, event: ConsoleEvent.portName, rest: Array(Self.agent.utf8)))
        var client: UnixSocket? = try UnixSocket(connectingTo: folder["agent"])
        #expect(try rig.message() == ConsoleMessage(port: 1, event: ConsoleEvent.portOpen))
        _ = client
        client = nil
        #expect(
            try rig.message() == ConsoleMessage(port: 1, event: ConsoleEvent.portOpen, value: 0))
    }

    @Test("a terminal's readers all get the output, late ones what there was")
    func readers() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("listen=\(folder["c"])")
        let first = try UnixSocket(connectingTo: folder["c"])
        #expect(try rig.send(1, Array("hello ".utf8)))
        #expect(try rig.read(first, count: 6) == Array("hello ".utf8))
        let second = try UnixSocket(connectingTo: folder["c"])
        #expect(try rig.read(second, count: 6) == Array("hello ".utf8))
        #expect(try rig.send(1, Array("world".utf8)))
        #expect(try rig.read(first, count: 5) == Array("world".utf8))
        #expect(try rig.read(second, count: 5) == Array("world".utf8))
        try first.send(Array("a".utf8))
        #expect(try rig.input(0, count: 1) == Array("a".utf8))
        try second.send(Array("b".utf8))
        #expect(try rig.input(0, count: 1) == Array("b".utf8))
    }

    @Test("what was shown goes on to the process that follows, as a whole or not at all")
    func handOver() throws {
        let folder = try TestFolder()
        let old = try ConsoleRig("listen=\(folder["old"])")
        #expect(try old.send(1, Array("hello ".utf8)))
        let state = old.device.saveState()
        let new = try ConsoleRig("listen=\(folder["new"])")
        for count in 0..<state.count {
            #expect(throws: VirtioDeviceError.self) {
                try new.device.loadState(Array(state.prefix(count)))
            }
        }
        try new.device.loadState(state)
        #expect(try new.send(1, Array("world".utf8)))
        let reader = try UnixSocket(connectingTo: folder["new"])
        #expect(try new.read(reader, count: 11) == Array("hello world".utf8))
    }

    @Test("a state that no console can have is refused and changes nothing")
    func senselessState() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("listen=\(folder["c"])")
        #expect(try rig.send(1, Array("hello".utf8)))
        let good = rig.device.saveState()
        // Version and number of ports, two bytes, and how much input, output and shown there is.
        let (input, output, shown) = (8, 12, 16)
        #expect(
            Array(good[shown...]) == littleEndian(5 as UInt32) + Array("hello".utf8) + [0, 0, 0, 0])
        func block(_ count: Int) -> [UInt8] {
            littleEndian(UInt32(count)) + [UInt8](repeating: 0, count: count)
        }
        let end = littleEndian(0 as UInt32)
        let message = [UInt8](repeating: 0, count: 8)
        let many = (0..<1025).flatMap { _ in message + end }
        let bad: [[UInt8]] = [
            good + [0],
            Array(good[..<input]) + block((64 << 10) + 1) + Array(good[output...]),
            Array(good[..<output]) + block((2 << 20) + 1) + Array(good[shown...]),
            Array(good[..<shown]) + block((16 << 20) + 1) + end,
            Array(good.dropLast(4)) + littleEndian(1025 as UInt32) + many,
            Array(good.dropLast(4)) + littleEndian(1 as UInt32) + message + block(257),
        ]
        for bad in bad {
            #expect(throws: VirtioDeviceError.self) { try rig.device.loadState(bad) }
            #expect(rig.device.saveState() == good)
        }
    }

    @Test("a channel whose reader sleeps takes a state")
    func sleeperState() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("listen=\(folder["c"]),console=off")
        try rig.control(0, ConsoleEvent.portOpen, 1)
        let reader = try UnixSocket(connectingTo: folder["c"])
        _ = rig.loop.run(timeoutMilliseconds: 300) { false }
        while try rig.send(1, [UInt8](repeating: 1, count: 30_000), milliseconds: 200) {}
        let state = rig.device.saveState()
        for _ in 0..<2 { try rig.device.loadState(state) }
        #expect(try !rig.read(reader, count: 100_000).isEmpty)
    }

    @Test("a terminal's guest does not wait for a reader that sleeps")
    func sleepyReader() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("listen=\(folder["c"]),replay=1K")
        let reader = try UnixSocket(connectingTo: folder["c"])
        for _ in 0..<200 { #expect(try rig.send(1, [UInt8](repeating: 1, count: 10_000))) }
        #expect(try rig.send(1, [2, 3, 4]))
        var all: [UInt8] = []
        while all.suffix(3) != [2, 3, 4] {
            let more = try rig.read(reader, count: 1)
            if more.isEmpty { break }
            all += more
            if let rest = try reader.receive(upTo: 1 << 20) { all += rest.bytes }
        }
        #expect(all.suffix(3) == [2, 3, 4])
        #expect(all.count < 2_000_003)
    }

    @Test("a channel loses nothing, and its guest waits for the reader")
    func channel() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("listen=\(folder["c"]),console=off")
        try rig.control(0, ConsoleEvent.portOpen, 1)
        let reader = try UnixSocket(connectingTo: folder["c"])
        let piece = (0..<30_000).map { UInt8(truncatingIfNeeded: $0 / 7) }
        var sent = 0
        // A busy machine may take one of the waits.
        while try rig.send(1, piece, milliseconds: 200) || rig.awaitSent(1, milliseconds: 200) {
            sent += 1
        }
        #expect(sent > 1 && sent < 40)
        #expect(
            try rig.read(reader, count: piece.count * (sent + 1))
                == [[UInt8]](repeating: piece, count: sent + 1).flatMap { $0 })
        #expect(try rig.awaitSent(1))
        // What is written while the guest has no room arrives later.
        let long = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 / 3) }
        var written = 0
        var got: [UInt8] = []
        while got.count < long.count {
            let room = long[written...].prefix(8192)
            if !room.isEmpty {
                try reader.send(Array(room))
                written += room.count
            }
            got += try rig.input(0, count: room.count)
        }
        #expect(got == long)
    }

    @Test("input without room in the guest is left to the process that follows")
    func unreadInput() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("listen=\(folder["c"])")
        let writer = try UnixSocket(connectingTo: folder["c"])
        let first = [UInt8](repeating: 1, count: 8 * 256)
        try writer.send(first)
        _ = rig.loop.run(timeoutMilliseconds: 300) { false }
        let state = rig.device.saveState()
        try writer.send([2, 3, 4])
        _ = rig.loop.run(timeoutMilliseconds: 300) { false }
        #expect(rig.device.saveState() == state)
        #expect(try rig.input(0, count: first.count + 3) == first + [2, 3, 4])
    }

    @Test("a channel's reader that sleeps does not hold up another for long")
    func sleepyChannelReader() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("listen=\(folder["c"]),console=off")
        let sleeper = try UnixSocket(connectingTo: folder["c"])
        let reader = try UnixSocket(connectingTo: folder["c"])
        // Until both are served.
        _ = rig.loop.run(timeoutMilliseconds: 300) { false }
        let piece = (0..<30_000).map { UInt8(truncatingIfNeeded: $0 / 7) }
        // More than the sleeper's socket and the history hold.
        for _ in 0..<40 {
            #expect(try rig.send(1, piece, milliseconds: 8000))
            #expect(try rig.read(reader, count: piece.count) == piece)
        }
        withExtendedLifetime(sleeper) {}
    }

    @Test("input for a channel that is closed in the guest waits")
    func closedChannel() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("listen=\(folder["c"]),console=off")
        try rig.control(0, ConsoleEvent.portReady, 1)
        let client = try UnixSocket(connectingTo: folder["c"])
        try client.send([7])
        #expect(try rig.receive(0, milliseconds: 100) == nil)
        try rig.control(0, ConsoleEvent.portOpen, 1)
        #expect(try rig.receive(0) == [7])
    }

    @Test("what a program said before it left waits for the guest")
    func closedClient() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("listen=\(folder["c"]),console=off")
        try rig.control(0, ConsoleEvent.portReady, 1)
        do {
            let client = try UnixSocket(connectingTo: folder["c"])
            try client.send([7, 8])
        }
        #expect(try rig.receive(0, milliseconds: 100) == nil)
        try rig.control(0, ConsoleEvent.portOpen, 1)
        #expect(try rig.receive(0) == [7, 8])
        // Nobody is left.
        let next = try UnixSocket(connectingTo: folder["c"])
        try next.send([9])
        #expect(try rig.receive(0) == [9])
    }

    @Test("output is appended to a file, and so is an emergency's")
    func file() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("file=\(folder["log"])")
        #expect(try rig.send(1, Array("one\n".utf8)))
        rig.device.writeConfig(offset: 8, Array("!".utf8))
        #expect(try rig.send(1, Array("two\n".utf8)))
        #expect(try readFile(folder["log"]) == Array("one\n!two\n".utf8))
    }

    @Test("a pseudo terminal works both ways, and its size is the guest's")
    func terminal() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("pty,link=\(folder["tty"])")
        let fd = unsafe open(folder["tty"], O_RDWR | O_NOCTTY)
        let terminal = OwnedFD(owning: fd)
        #expect(try rig.send(1, Array("login: ".utf8)))
        var bytes = [UInt8](repeating: 0, count: 7)
        #expect(unsafe read(terminal.rawValue, &bytes, 7) == 7)
        #expect(bytes == Array("login: ".utf8))
        try rig.control(0, ConsoleEvent.portReady, 1)
        for event in [ConsoleEvent.consolePort, ConsoleEvent.portOpen] {
            #expect(try rig.message() == ConsoleMessage(port: 0, event: event))
        }
        var size = winsize(ws_row: 50, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0)
        #expect(unsafe ioctl(terminal.rawValue, UInt(TIOCSWINSZ), &size) == 0)
        #expect(unsafe write(terminal.rawValue, "root", 4) == 4)
        #expect(try rig.input(0, count: 4) == Array("root".utf8))
        #expect(rig.configChanges == 1)
        #expect(rig.device.readConfig(offset: 0, count: 4) == [132, 0, 50, 0])
        #expect(
            try rig.message()
                == ConsoleMessage(
                    port: 0, event: ConsoleEvent.resize, value: 0, rest: [132, 0, 50, 0]))
    }

    @Test("a guest that takes messages late learns a terminal's last size")
    func lastSize() throws {
        let folder = try TestFolder()
        let rig = try ConsoleRig("pty,link=\(folder["tty"])")
        let fd = unsafe open(folder["tty"], O_RDWR | O_NOCTTY)
        let terminal = OwnedFD(owning: fd)
        try rig.control(0, ConsoleEvent.portReady, 1)
        for _ in 0..<2 { _ = try rig.message() }
        // As many as the guest has room for; it takes them later.
        for _ in 0..<8 { try rig.control(0, ConsoleEvent.deviceReady, 1) }
        for columns in [100, 200, 100] as [UInt16] {
            var size = winsize(ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0)
            #expect(unsafe ioctl(terminal.rawValue, UInt(TIOCSWINSZ), &size) == 0)
            #expect(unsafe write(terminal.rawValue, "x", 1) == 1)
            #expect(try rig.input(0, count: 1) == [UInt8(ascii: "x")])
        }
        for _ in 0..<8 { #expect(try rig.message()?.event == ConsoleEvent.deviceAdd) }
        #expect(
            try rig.message()
                == ConsoleMessage(
                    port: 0, event: ConsoleEvent.resize, value: 0, rest: [100, 0, 50, 0]))
        #expect(try rig.receive(2, milliseconds: 200) == nil)
    }

    @Test("a guest that asks without end costs no memory")
    func flood() throws {
        let rig = try ConsoleRig("null,ports=[null,null]")
        for _ in 0..<2000 { try rig.control(0, ConsoleEvent.deviceReady, 1) }
        for port in UInt32(0)..<3 {
            #expect(try rig.message() == ConsoleMessage(port: port, event: ConsoleEvent.deviceAdd))
        }
        try rig.control(77, ConsoleEvent.portReady, 1)
        try rig.control(0, 99, 1)
        #expect(try rig.send(3, [1, 2, 3]))
    }

    @Test(
        "what makes no sense is refused",
        arguments: [
            ("", "one of stdio, pty, null, listen=PATH and file=PATH is needed"),
            ("null,file=x", "one of stdio, pty, null, listen=PATH and file=PATH is needed"),
            ("null,link=x", "link belongs to pty"),
            ("stdio,ports=[stdio]", "only one port can have standard input and output"),
            ("null,ports=[\"listen=\"]", "ports: listen: a path must not be empty"),
        ])
    func refusals(text: String, message: String) {
        #expect(throws: OptionError(message)) {
            try ConsoleOptions(ConsoleOptions.schema.parse(text))
        }
    }
}
