internal import Core
internal import Devices
internal import Glibc
internal import VhostUser

/// The program `apus`: a virtual machine from a command line.
package enum VMMProgram {
    private static let log = Log("apus")

    /// - Parameters:
    ///   - arguments: those that follow the program's name.
    ///   - backends: the kinds of device that can be served.
    /// - Returns: the exit code, see `Outcome`.
    package static func run(arguments: [String], backends: [AvailableBackend]) -> Int32 {
        let timeline = BootTimeline()
        Log.configure(program: "apus", level: .warning)
        do {
            let (request, level, help) = try parse(arguments, backends)
            Log.configure(program: "apus", level: level)
            switch request {
            case .help: return printOut(help()).rawValue
            case .version: return printOut("apus \(Release.version)\n").rawValue
            case .run(var options):
                timeline.mark(.optionsParsed)
                options.logLevel = level
                return try run(options, timeline)
            }
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

    /// Makes only the kinds of back ends that the arguments name, which are few, unless there is
    /// an error or help to show: those are of all of them.
    private static func parse(
        _ arguments: [String], _ backends: [AvailableBackend]
    ) throws(OptionError) -> (VMMCommand.Request, Log.Level, help: () -> String) {
        let named = VMMCommand(
            backends: backends.filter { $0.isNamed(in: arguments) }.map { $0.make() })
        if let (request, level) = try? named.parse(arguments), request.isRun {
            return (request, level, { named.schema.help })
        }
        let all = VMMCommand(backends: backends.map { $0.make() })
        let (request, level) = try all.parse(arguments)
        return (request, level, { all.schema.help })
    }

    private static func run(
        _ options: MachineOptions, _ timeline: BootTimeline
    ) throws -> Int32 {
        SignalFD.ignoreBrokenPipes()
        let given = try Given(options)
        let loop = try EventLoop()
        let run = RunState(policies: options.policies, loop: loop)
        // Before any thread starts, so that all of them leave signals to the loop.
        let signals = try loop.watchSignals(
            [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCONT, SIGWINCH, SIGUSR2]
        ) { signal in
            switch signal {
            case SIGCONT: run.continued()
            case SIGWINCH: run.resized()
            case SIGUSR2: run.upgradeBackends()
            default: run.end(.ended, .hostSignal)
            }
        }
        let machine = try Machine(options, given, loop: loop, timeline: timeline, run: run)
        // All is open that will be needed, and nothing has been read yet.
        try given.sandbox.enter(
            VMMSystemCalls.control, visible: given.socketFolders,
            shared: given.launcher?.takeNamespaces(), signals: .anybody)
        defer {
            machine.stopDevices()
            given.launcher?.end()
        }
        try machine.addDevices()
        timeline.mark(.devicesReady)
        let state = try machine.load()
        try machine.startDevices()
        try machine.makeCPUs()
        machine.startMonitor()
        machine.console.start(machine.serial)
        run.begin(machine, state)
        let release = StartupMemory.release(after: 1000, on: loop)
        loop.run()
        release.cancel()
        machine.console.stop()
        signals.cancel()
        if options.showsBootTiming { machine.reportEnd() }
        for summary in machine.cpus.compactMap(\.summary) {
            _ = writeText(summary + "\n", to: STDERR_FILENO)
        }
        let outcome = run.outcome ?? .error
        // A status of the guest's own (--debug-exit) stands for a power-off.
        return outcome == .powerOff
            ? machine.debugExit?.status ?? outcome.rawValue : outcome.rawValue
    }

    private static func printOut(_ text: String) -> Outcome {
        // A single write: pipes and files take all of it.
        guard writeText(text, to: STDOUT_FILENO) != text.utf8.count else { return .powerOff }
        log(.error, "standard output cannot be written: \(SystemError("write", errno: errno))")
        return .error
    }

    /// - Returns: how many bytes were written.
    fileprivate static func writeText(_ text: String, to fd: Int32) -> Int {
        var text = text
        return text.withUTF8 { bytes in
            // SAFETY: the bytes live for the call.
            unsafe write(fd, bytes.baseAddress, bytes.count)
        }
    }
}

extension Machine {
    /// The guest has printed its first line of user space.
    func reachedUserSpace() {
        guard options.showsBootTiming else { return }
        hasReportedTiming = true
        _ = VMMProgram.writeText(timeline.report, to: STDERR_FILENO)
    }

    /// How much work the whole run was, and its timing if there was no user space.
    func reportEnd() {
        if !hasReportedTiming { _ = VMMProgram.writeText(timeline.report, to: STDERR_FILENO) }
        let counts = cpus.map { String($0.retiredInstructions) }.joined(separator: " + ")
        _ = VMMProgram.writeText("instructions retired: \(counts)\n", to: STDERR_FILENO)
    }
}
