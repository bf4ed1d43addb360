package import Core
internal import Glibc

/// The program `apus`: a virtual machine from a command line.
package enum VMMProgram {
    private static let log = Log("apus")

    /// - Parameters:
    ///   - arguments: those that follow the program's name.
    ///   - diskSchema: what the block backend understands.
    /// - Returns: the exit code, see `Outcome`.
    package static func run(arguments: [String], diskSchema: OptionSchema) -> Int32 {
        let timeline = BootTimeline()
        let command = VMMCommand(diskSchema: diskSchema)
        Log.configure(program: "apus", level: .warning)
        do {
            let (request, level) = try command.parse(arguments)
            Log.configure(program: "apus", level: level)
            switch request {
            case .help: printOut(command.schema.help)
            case .version: printOut("apus \(VMMCommand.release)\n")
            case .run(var options):
                timeline.mark(.optionsParsed)
                options.logLevel = level
                return try run(options, timeline).rawValue
            }
            return 0
        } catch let error as OptionError {
            log(.error, "\(error)")
            return Outcome.usage.rawValue
        } catch let error as BootError where error.isReported {
            log(.info, "\(error)")
            return Outcome.error.rawValue
        } catch {
            log(.error, "\(error)")
            return Outcome.error.rawValue
        }
    }

    private static func run(
        _ options: MachineOptions, _ timeline: BootTimeline
    ) throws -> Outcome {
        SignalFD.ignoreBrokenPipes()
        let loop = try EventLoop()
        let run = RunState(policies: options.policies, loop: loop)
        // Before any thread starts, so that all of them leave signals to the loop.
        let signals = try loop.watchSignals([SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCONT]) {
            if $0 == SIGCONT { run.continued() } else { run.end(.ended) }
        }
        let machine = try Machine(options, loop: loop, timeline: timeline, run: run)
        defer { machine.stopDevices() }
        try machine.addDisks()
        timeline.mark(.devicesReady)
        let state = try machine.load()
        try machine.makeCPUs()
        if let serial = machine.serial { machine.console.start(serial) }
        run.begin(machine, state)
        loop.run()
        machine.console.stop()
        signals.cancel()
        if options.showsBootTiming { machine.reportEnd() }
        return run.outcome ?? .error
    }

    private static func printOut(_ text: String) {
        var text = text
        text.withUTF8 { bytes in
            // SAFETY: the bytes live for the call.
            _ = unsafe write(STDOUT_FILENO, bytes.baseAddress, bytes.count)
        }
    }
}

extension Machine {
    /// The guest has printed its first line of user space.
    func reachedUserSpace() {
        guard options.showsBootTiming else { return }
        Self.report(timeline.report)
    }

    /// How much work the whole run was.
    func reportEnd() {
        let counts = cpus.map { String($0.retiredInstructions) }.joined(separator: " + ")
        Self.report("instructions retired: \(counts)\n")
    }

    private static func report(_ text: String) {
        var text = text
        text.withUTF8 { bytes in
            // SAFETY: the bytes live for the call.
            _ = unsafe write(STDERR_FILENO, bytes.baseAddress, bytes.count)
        }
    }
}
