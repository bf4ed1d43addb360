import ConsoleBackend
import Core
import FileSystemBackend
import NetworkBackend
import RandomBackend
import TCG
import Testing
import VhostUser
import VsockBackend

@testable import BlockBackend
@testable import VMM

@Suite("VMM command line")
struct VMMCommandTests {
    let command = VMMCommand(backends: [
        .block, .console, .fileSystem, .network, .random, .vsock,
    ])

    /// A disk that a process of ours serves.
    private func disk(
        _ name: String, _ options: String, isInOrder: Bool = false
    ) throws -> DeviceOptions {
        var device = try DeviceOptions(
            .block, BlockOptions.schema.parse("path=\(name)"), mustBeInOrder: isInOrder)
        device.source = .child(
            .init(
                kind: .block, values: try BlockOptions.schema.parse(options),
                isInOrder: isInOrder))
        return device
    }

    @Test(
        "a program's name that is misspelt is known",
        arguments: [
            ("swich", "switch"), ("atach", "attach"), ("blok", "block"), ("vsok", "vsock"),
        ])
    func misspelt(word: String, name: String) {
        #expect(throws: OptionError("there is no program '\(word)'; did you mean '\(name)'?")) {
            try command.parse([word, "--listen", "x"])
        }
        // Nothing is like it, or it is not the first word.
        for arguments in [["k"], ["--version", word]] {
            let last = arguments.last ?? ""
            #expect(throws: OptionError("unexpected argument '\(last)': options start with --")) {
                try command.parse(arguments)
            }
        }
    }

    func options(_ text: String) throws -> MachineOptions {
        let (request, _) = try command.parse(text.split(separator: " ").map(String.init))
        guard case .run(let options) = request else {
            throw OptionError("no machine was asked for")
        }
        return options
    }

    @Test("a kernel is all that is needed")
    func defaults() throws {
        let options = try options("--kernel k")
        #expect(
            options.boot
                == BootSource(
                    kernel: "k", initramfs: nil, commandLine: "console=ttyS0 reboot=a panic=-1"))
        #expect(options.cpuCount == 1)
        #expect(options.memory == MemoryOptions())
        #expect(options.accelerator == .kvmOrTCG(TCGOptions()))
        #expect(options.serial == .terminal)
        #expect(options.devices.isEmpty)
        #expect(options.policies == EndPolicies())
    }

    @Test("what tests of processors use is only there if it is asked for")
    func testDevices() throws {
        #expect(try options("--kernel k").debugExitPort == nil)
        #expect(try !options("--kernel k").hasTestDevice)
        #expect(try options("--kernel k --debug-exit").debugExitPort == 0xf4)
        let options = try options("--kernel k --debug-exit 0x501 --test-device")
        #expect(options.debugExitPort == 0x501)
        #expect(options.hasTestDevice)
    }

    @Test("everything can be said")
    func everything() throws {
        let options = try options(
            "--kernel k --initramfs i --cmdline quiet --cpus boot=1 --memory "
                + "size=1G,hugepages=on --disk a.img,direct=on,engine=aio --disk socket=/s "
                + "--serial file=/f --accel tcg,clock=counted --on-reboot exit --on-panic restart")
        #expect(options.boot.commandLine == "console=ttyS0 reboot=a panic=-1 quiet")
        #expect(
            options.memory
                == MemoryOptions(size: 1 << 30, backing: GuestMemoryOptions(pageSize: .huge2M)))
        #expect(
            options.devices == [
                try disk("a.img", "path=a.img,direct=on,engine=aio", isInOrder: true),
                DeviceOptions(.block, "disk", socket: "/s"),
            ])
        #expect(options.serial == .file("/f"))
        #expect(options.accelerator == .tcg(TCGOptions(clock: .counted, cpuCount: 1)))
        #expect(options.policies.reboot == .exit)
        #expect(options.policies.panic == .restart)
    }

    @Test("the CPU's model is for tcg, and for kvm:tcg should it be tcg")
    func model() throws {
        let line = "--kernel k --cpu x86-64-v3"
        let wanted = TCGOptions(model: .level3)
        #expect(try options(line).accelerator == .kvmOrTCG(wanted))
        #expect(try options("\(line) --accel tcg").accelerator == .tcg(wanted))
        #expect(throws: OptionError.self) { try options("\(line) --accel kvm") }
        #expect(throws: OptionError.self) { try options("--kernel k --cpu x86-64-v4") }
    }

    @Test("translated code is listed in a file")
    func dump() throws {
        let wanted = TCGOptions(listingPath: "f")
        #expect(try options("--kernel k --accel tcg,dump=f").accelerator == .tcg(wanted))
        #expect(throws: OptionError.self) { try options("--kernel k --accel tcg,dump=") }
    }

    @Test("names for perf are those of tcg's code")
    func perfMap() throws {
        let wanted = TCGOptions(hasPerfMap: true)
        #expect(try options("--kernel k --accel tcg,perf-map=on").accelerator == .tcg(wanted))
        #expect(try options("--kernel k --accel tcg,perf-map").accelerator == .tcg(wanted))
    }

    @Test("statistics are for tcg, and for kvm:tcg should it be tcg")
    func statistics() throws {
        let wanted = TCGOptions(showsStatistics: true)
        #expect(try options("--kernel k --accel tcg,stats=on").accelerator == .tcg(wanted))
        #expect(try options("--kernel k --accel kvm:tcg,stats").accelerator == .kvmOrTCG(wanted))
        #expect(try options("--kernel k --accel tcg,stats=off").accelerator == .tcg(TCGOptions()))
    }

    @Test("the default command line can be left out; its console goes with the serial port")
    func commandLine() throws {
        #expect(
            try options("--kernel k --default-cmdline off --cmdline x").boot.commandLine == "x")
        #expect(
            try options("--kernel k --serial off --cmdline x").boot.commandLine
                == "reboot=a panic=-1 x")
        #expect(
            try options("--kernel k --serial off --default-cmdline off").boot.commandLine == "")
    }

    @Test(
        "a disk's queue size is known to its front end, however it is written",
        arguments: [("20", 20), ("0x40", 64)] as [(String, UInt16)])
    func smallQueues(text: String, size: UInt16) throws {
        let options = try options("--kernel k --disk a,queue-size=\(text)")
        #expect(options.devices == [try disk("a", "path=a,queue-size=\(text)")])
        guard case .child(let child) = options.devices.first?.source else {
            throw OptionError("there is no process")
        }
        #expect(child.queueSize == size)
    }

    @Test("with counted time a disk does its requests in order, unless its engine is given")
    func countedDisks() throws {
        let options = try options(
            "--kernel k --accel tcg,clock=counted --disk a --disk b,engine=threads "
                + "--disk c,engine=aio")
        #expect(
            options.devices == [
                try disk("a", "path=a,engine=threads,threads=0", isInOrder: true),
                try disk("b", "path=b,engine=threads,threads=0", isInOrder: true),
                try disk("c", "path=c,engine=aio", isInOrder: true),
            ])
    }

    @Test(
        "what is wrong is said",
        arguments: [
            ("--memory size=1G", "--kernel is missing; --help shows how to start"),
            (
                "--kernel k --memory size=1K",
                "--memory: size is a multiple of 1M, at least 16M and at most 8T"
            ),
            ("--kernel k --memory hugepage_size=1G", "--memory: hugepage_size needs hugepages=on"),
            (
                "--kernel k --memory size=16M,hugepages=on,hugepage_size=4M",
                "--memory: hugepage_size is 2M or 1G"
            ),
            (
                "--kernel k --memory size=17M,hugepages=on",
                "--memory: size is a multiple of the huge pages' size"
            ),
            ("--kernel k --cpus boot=0", "--cpus: boot: 0 is not between 1 and 64"),
            (
                "--kernel k --cpus 2 --accel tcg,clock=counted",
                "--accel: clock=counted repeats runs of one CPU only; give it --cpus boot=1"
            ),
            (
                "--kernel k --cpus 2 --accel tcg,tier=both",
                "--accel: tier=both compares runs of one CPU only; give it --cpus boot=1"
            ),
            (
                "--kernel k --accel kvm:tcg,tier=both",
                "--accel: tier=both belongs to tcg alone; write tcg,tier=both"
            ),
            (
                "--kernel k --accel kvm,stats=on",
                "--accel: stats belongs to tcg; KVM's CPUs count nothing here"
            ),
            (
                "--kernel k --accel kvm,perf-map=on",
                "--accel: perf-map belongs to tcg; for kvm there is perf kvm"
            ),
            (
                "--kernel k --accel kvm,dump=f",
                "--accel: dump belongs to tcg; KVM translates nothing"
            ),
            (
                "--kernel k --accel hvm",
                "--accel: provider: 'hvm' is not one of kvm, tcg, kvm:tcg; did you mean 'kvm'?"
            ),
            (
                "--kernel k --accel hvf",
                "--accel: provider: 'hvf' is not one of kvm, tcg, kvm:tcg"
            ),
            (
                "--kernel k --vhost-user type=nett,socket=s",
                "--vhost-user: type: 'nett' is neither a type of device nor a number from 1 to 63;"
                    + " did you mean 'net'?"
            ),
            (
                "--kernel k --vhost-user type=toaster,socket=s",
                "--vhost-user: type: 'toaster' is neither a type of device nor a number from 1 to"
                    + " 63; --help lists the types"
            ),
            (
                "--kernel k --accel kvm,clock=host",
                "--accel: clock belongs to tcg alone; write tcg,clock=..."
            ),
            (
                "--kernel k --serial tty,file=x",
                "--serial: one of tty, null, off and file=PATH is needed"
            ),
            ("--kernel k --disk readonly=on", "--disk: path or socket is missing"),
            (
                "--kernel k --disk socket=s,readonly=on",
                "--disk: socket stands alone; its back end has the options"
            ),
            (
                "--kernel k --console stdio --console stdio",
                "--console: only one can have standard input and output"
            ),
            (
                "--kernel k --disk a,plugged=off",
                "--disk: plugged=off needs an id=NAME, by which it can be plugged in"
            ),
            (
                "--kernel k --fs path=a,tag=b,cache-size=4M,id=c",
                "the shared folder 'a' cannot have both an id and a window (cache-size): behind the"
                    + " port of a device that comes and goes there is no room for it"
            ),
            ("--kernel k --rng id=", "--rng: id has 1 to 64 characters"),
            (
                "--kernel k --disk a,id=x --vhost-user type=rng,socket=s,id=x",
                "two devices have the id 'x'; give each its own"
            ),
            ("--kernel k --disk socet=s", "--disk: unknown key 'socet'; did you mean 'socket'?"),
            (
                "--kernel k --on-reboot stop",
                "--on-reboot: 'stop' is not one of exit, restart"
            ),
        ])
    func errors(text: String, message: String) {
        #expect(throws: OptionError(message)) { try options(text) }
    }

    @Test("a random number generator needs no options")
    func random() throws {
        let options = try options("--kernel k --rng --cpus 2")
        #expect(
            options.devices == [
                try DeviceOptions(.random, RandomOptions.schema.parse(""), mustBeInOrder: false)
            ])
        #expect(options.cpuCount == 2)
    }

    @Test(
        "devices with an id have a slot, whoever serves them, and their programs do not hear of it")
    func slots() throws {
        let options = try options(
            "--kernel k --disk a,id=data --disk socket=s,id=other,plugged=off "
                + "--vhost-user type=rng,socket=r,id=third --disk b")
        #expect(options.devices.count == 4)
        let slots = Dictionary(
            uniqueKeysWithValues: options.devices.compactMap { $0.slot }.map {
                ($0.id, $0.isPlugged)
            })
        #expect(slots == ["data": true, "other": false, "third": true])
        guard case .child(let child) = options.devices[0].source else {
            Issue.record("the first disk is not ours")
            return
        }
        #expect(child.values.text == "path=a")
    }

    @Test(
        "a window of no size is none, however it is written", arguments: ["0", "0M", "0x0", "0G"])
    func noWindow(size: String) throws {
        let options = try options("--kernel k --fs path=a,tag=b,cache-size=\(size),id=c")
        #expect(options.devices.map(\.sharesMemory) == [false])
    }

    @Test("help lists every type of device, and programs in columns")
    func lists() {
        let help = command.schema.help
        #expect(help.contains("  --vhost-user type=NAME|N,socket=PATH,...\n"))
        #expect(help.contains("\n  net, block, console, rng, balloon,"))
        #expect(help.contains("  apus block [OPTION...]      Serves a disk image"))
        #expect(help.contains("  apus rng [OPTION...]        Gives a virtual machine"))
        #expect(help.split(separator: "\n").allSatisfy { $0.count <= 100 })
    }

    @Test("help lists every exit code")
    func help() {
        for outcome in Outcome.allCases {
            let note = outcome.note.map { ", \($0)" } ?? ""
            let line = "  \(outcome.rawValue)  \(outcome.meaning)\(note)\n"
            #expect(command.schema.help.contains(line))
        }
    }
}
