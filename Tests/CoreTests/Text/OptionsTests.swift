import Core
import Testing

private enum Engine: String, CaseIterable { case auto, uring = "io_uring", threads }

private enum Disk {
    static let path = OptionKey.required("path", .path, help: "The image")
    static let readOnly = OptionKey("readonly", .bool, default: false, help: "Refuse writes")
    static let size = OptionKey<UInt64?>("size", .size, help: "Bytes")
    static let queues = OptionKey("queues", .integer(1...16), default: 1, help: "Queues")
    static let engine = OptionKey(
        "engine", .choice(Engine.self), default: .auto, help: "How to do I/O")
    static let tags = OptionKey("tags", .list(of: .string), default: [], help: "Words")
    static let schema = OptionSchema(
        "disk",
        keys: [path.any, readOnly.any, size.any, queues.any, engine.any, tags.any])
}

private enum Serial {
    enum Mode: String, CaseIterable { case tty, off }
    static let mode = OptionKey<Mode?>("mode", .choice(Mode.self), help: "Where to")
    static let file = OptionKey<String?>("file", .path, help: "A file")
    static let schema = OptionSchema("serial", leadingKey: "mode", keys: [mode.any, file.any])
}

private enum Random {
    static let source = OptionKey<String?>("source", .path, help: "Where from")
    static let schema = OptionSchema(
        "rng", leadingKey: "source", mayBeEmpty: true, keys: [source.any])
}

@Suite("Options")
struct OptionsTests {
    @Test("every type is read, and keys left out have their defaults")
    func types() throws {
        let values = try Disk.schema.parse(
            "path=/a/b.img,readonly=on,size=3G,engine=io_uring,tags=[x,y]")
        #expect(values[Disk.path] == "/a/b.img")
        #expect(values[Disk.readOnly])
        #expect(values[Disk.size] == 3 << 30)
        #expect(values[Disk.queues] == 1)
        #expect(values[Disk.engine] == .uring)
        #expect(values[Disk.tags] == ["x", "y"])
        #expect(values.isGiven(Disk.size))
        #expect(!values.isGiven(Disk.queues))
    }

    @Test(
        "quotes protect commas and brackets, and doubled quotes are one",
        arguments: [
            (#"path="/a,b""#, "/a,b"), (#"path="a""b""#, #"a"b"#), (#"path=x" "y"#, "x y"),
            (#"path="a]""#, "a]"), ("path=a=b", "a=b"), (#"path="""x""#, #""x"#),
        ])
    func quoting(text: String, path: String) throws {
        #expect(try Disk.schema.parse(text)[Disk.path] == path)
    }

    @Test("items of a list can be quoted")
    func quotedItems() throws {
        let values = try Disk.schema.parse(#"path=p,tags=["a,b",c,"d""e"]"#)
        #expect(values[Disk.tags] == ["a,b", "c", #"d"e"#])
    }

    @Test(
        "sizes",
        arguments: [
            ("0", 0), ("4096", 4096), ("4k", 4096), ("512M", 512 << 20), ("0x10", 16),
            ("1T", 1 << 40),
        ] as [(String, UInt64)])
    func sizes(text: String, size: UInt64) throws {
        #expect(try Disk.schema.parse("path=p,size=\(text)")[Disk.size] == size)
    }

    @Test(
        "what is wrong is said",
        arguments: [
            ("", "key 'path' is missing"),
            ("path=", "path: a path must not be empty"),
            ("path=a,path=b", "key 'path' is given twice"),
            ("path=a,readnoly=on", "unknown key 'readnoly'; did you mean 'readonly'?"),
            (
                "path=a,zzzzzzzzz=1",
                "unknown key 'zzzzzzzzz'; known are path, readonly, size, queues, engine, tags"
            ),
            (
                "path=a,engine=uring2",
                "engine: 'uring2' is not one of auto, io_uring, threads"
            ),
            ("path=a,size=12Q", "size: '12Q' is not a size such as 512M or 2G"),
            ("path=a,size=99999999T", "size: '99999999T' is not a size such as 512M or 2G"),
            ("path=a,size=-1", "size: '-1' is not a size such as 512M or 2G"),
            ("path=a,queues=17", "queues: 17 is not between 1 and 16"),
            ("path=a,queues=+1", "queues: '+1' is not a whole number"),
            ("path=a,readonly=maybe", "readonly: 'maybe' is neither on nor off"),
            (
                "path=a,engine=thread",
                "engine: 'thread' is not one of auto, io_uring, threads; did you mean 'threads'?"
            ),
            ("path=a,size", "key 'size' needs a value (size=SIZE)"),
            ("path=\"a", "a quote is not closed in 'path=\"a'"),
            ("path=a,tags=[x", "'[' without ']' in 'path=a,tags=[x'"),
            ("path=a],x=1", "']' without '[' in 'path=a],x=1'"),
            ("path=a,", "'' does not name a key"),
        ])
    func errors(text: String, message: String) {
        #expect(throws: OptionError(message)) { try Disk.schema.parse(text) }
    }

    @Test("a first word without a key is the leading key's value")
    func leading() throws {
        #expect(try Serial.schema.parse("tty")[Serial.mode] == .tty)
        let file = try Serial.schema.parse("file=/x")
        #expect(file[Serial.mode] == nil)
        #expect(file[Serial.file] == "/x")
    }

    @Test("what was given can be handed on")
    func handedOn() throws {
        let values = try Disk.schema.parse(#"path="a,""b",readonly,tags=["x,y",z]"#)
        let again = try Disk.schema.parse(values.text)
        #expect(again[Disk.path] == #"a,"b"#)
        #expect(again[Disk.readOnly])
        #expect(again[Disk.tags] == ["x,y", "z"])
        #expect(again.text(of: "path") == #"a,"b"#)
        #expect(again.givenCount == 3)
    }

    @Test("help names every key, its form and its default")
    func help() {
        let lines = Disk.schema.help.map { "\($0.term): \($0.text)" }
        #expect(lines.contains("path=PATH: The image (required)"))
        #expect(lines.contains("readonly=on|off: Refuse writes (default off)"))
        #expect(lines.contains("engine=auto|io_uring|threads: How to do I/O (default auto)"))
        #expect(lines.contains("tags=[TEXT,...]: Words (default [])"))
        #expect(Serial.schema.help.map(\.term) == ["mode=tty|off", "file=PATH"])
    }

    @Test("a value can be checked on its own")
    func check() {
        #expect(throws: Never.self) { try Disk.schema.check("a,b", for: "path") }
        #expect(throws: OptionError("a path must not be empty")) {
            try Disk.schema.check("", for: "path")
        }
    }
}

private enum Program {
    static let kernel = Flag.one("kernel", .path, help: "The kernel")
    static let level = Flag.one("level", .integer(), default: 3, help: "A level")
    static let disk = Flag.many("disk", Disk.schema, help: "A disk")
    static let serial = Flag.one("serial", Serial.schema, help: "The serial port")
    static let random = Flag.many("rng", Random.schema, help: "Random numbers")
    static let version = Flag.present("version", help: "Print the version")
    static let help = Flag.present("help", help: "Print this help")
    static let schema = CommandSchema(
        "prog", summary: "A program.",
        groups: [
            .init("Things", [kernel.any, level.any, disk.any, serial.any, random.any]),
            .init("Other", [version.any, help.any]),
        ], chapters: [("Exit codes", "  0  fine")])
}

@Suite("Command lines")
struct CommandTests {
    @Test("values follow the flag or an equals sign, and flags repeat")
    func parse() throws {
        let values = try Program.schema.parse(
            ["--kernel", "/k", "--disk=path=a", "--disk", "path=b,readonly=on", "--version"])
        #expect(values[Program.kernel] == "/k")
        #expect(values[Program.level] == 3)
        #expect(values[Program.disk].map { $0[Disk.path] } == ["a", "b"])
        #expect(values[Program.disk].map { $0[Disk.readOnly] } == [false, true])
        #expect(values[Program.version])
        #expect(values[Program.serial] == nil)
    }

    @Test(
        "what is wrong is said",
        arguments: [
            (["--kernal", "x"], "unknown option '--kernal'; did you mean '--kernel'?"),
            (["--qqqqqqqqqqqqqq"], "unknown option '--qqqqqqqqqqqqqq'; --help lists all"),
            (["x"], "unexpected argument 'x': options start with --"),
            (["--kernel"], "--kernel needs a value (PATH)"),
            (
                ["--kernel", "--version"],
                "--kernel needs a value (PATH); one that looks like an option is written"
                    + " --kernel=VALUE"
            ),
            (["--serial"], "--serial needs a value ([mode=]tty|off[,KEY=VALUE...])"),
            (["--version=1"], "--version takes no value"),
            (["--kernel=a", "--kernel=b"], "--kernel is given twice"),
            (["--disk", "pth=a"], "--disk: unknown key 'pth'; did you mean 'path'?"),
            (["--level", "x"], "--level: 'x' is not a whole number"),
        ])
    func errors(arguments: [String], message: String) {
        #expect(throws: OptionError(message)) { try Program.schema.parse(arguments) }
    }

    @Test("a value that looks like an option follows an equals sign")
    func optionLikeValue() throws {
        #expect(try Program.schema.parse(["--kernel=--version"])[Program.kernel] == "--version")
    }

    @Test("a flag whose options can all be left out stands alone or has a value")
    func bareFlag() throws {
        let values = try Program.schema.parse([
            "--rng", "--version", "--rng", "a", "--rng", "source=b", "--rng", "", "--rng",
        ])
        #expect(values[Program.random].map { $0[Random.source] } == [nil, "a", "b", nil, nil])
        #expect(values[Program.version])
    }

    @Test(
        "help is asked for in several ways",
        arguments: [["--help"], ["-h"], ["help"], ["--rng", "-h"]])
    func helpWords(arguments: [String]) throws {
        #expect(try Program.schema.parse(arguments)[Program.help])
    }

    @Test("help shows the groups, flags, keys and chapters")
    func help() {
        let help = Program.schema.help
        #expect(help.hasPrefix("A program.\n\nUsage: prog [OPTION...]\n\nThings:\n"))
        #expect(help.contains("  --kernel PATH               The kernel\n"))
        #expect(help.contains("  --level N                   A level (default 3)\n"))
        #expect(help.contains("  --disk path=PATH,...        A disk (may be repeated)\n"))
        #expect(help.contains("      readonly=on|off             Refuse writes (default off)\n"))
        #expect(help.contains("  --serial [mode=]tty|off[,KEY=VALUE...]\n"))
        #expect(help.contains("      mode=tty|off                Where to\n"))
        #expect(help.contains("  --rng [KEY=VALUE,...]       Random numbers (may be repeated)\n"))
        #expect(help.hasSuffix("\nExit codes:\n  0  fine\n"))
    }
}
