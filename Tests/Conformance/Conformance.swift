import Core
import Glibc
import TestSupport

/// Checks a vhost-user back end against the specification, with good and bad messages at every step
/// of a session (CONTRIBUTING.md, "Conformance").
@main
enum Conformance {
    private enum Flags {
        static let device = Flag.one(
            "device", .choice(DeviceKind.self), default: .block, help: "what the back end serves")
        static let socket = Flag.one(
            "socket", .path, help: "where it listens; what {socket} in COMMAND stands for")
        static let pid = Flag.one(
            "pid", .integer(1...UInt64(Int32.max)),
            help: "the process of a back end that runs already, to count its descriptors")
        static let only = Flag.one(
            "only", .text("WORDS"), help: "only cases with all these words, or these*")
        static let every = Flag.one(
            "every", .integer(1...1_000_000), default: 1,
            help: "only one case of so many, spread over all")
        static let deadline = Flag.one(
            "deadline", .integer(1...600_000), default: 1000,
            help: "how many milliseconds an answer may take")
        static let known = Flag.one(
            "known", .path, help: "a file with the failures to expect: just these are to fail")
        static let log = Flag.one(
            "log", .path, help: "where to put what the back end prints")
        static let list = Flag.present("list", help: "print the names of the cases and stop")
        static let json = Flag.present("json", help: "print JSON")
        static let help = Flag.present("help", help: "show this text")
    }

    private static let schema = CommandSchema(
        "vhost-user-conformance",
        summary: """
            Checks a vhost-user back end: vhost-user-conformance [OPTIONS] -- COMMAND...
            {socket} in COMMAND is replaced. Without a COMMAND, one that runs is checked (--socket).
            """,
        groups: [
            .init(
                "Options",
                [
                    Flags.device.any, Flags.socket.any, Flags.pid.any, Flags.only.any,
                    Flags.every.any, Flags.deadline.any, Flags.known.any, Flags.log.any,
                    Flags.list.any, Flags.json.any, Flags.help.any,
                ])
        ])

    static func main() {
        var arguments = Array(CommandLine.arguments.dropFirst())
        var command: [String] = []
        if let end = arguments.firstIndex(of: "--") {
            command = Array(arguments[(end + 1)...])
            arguments.removeSubrange(end...)
        }
        do {
            let values = try schema.parse(arguments)
            if values[Flags.help] { return print(schema.help, terminator: "") }
            exit(try check(values, command) ? 0 : 1)
        } catch {
            complain("\(error)")
            exit(error is OptionError ? 2 : 1)
        }
    }

    private static func complain(_ text: String) {
        let line = Array("vhost-user-conformance: \(text)\n".utf8)
        _ = unsafe write(2, line, line.count)
    }

    /// - Returns: whether all is well.
    private static func check(_ values: CommandValues, _ command: [String]) throws -> Bool {
        guard !command.isEmpty || values[Flags.socket] != nil else {
            guard values[Flags.list] else {
                throw OptionError("there is neither a COMMAND nor a --socket to test")
            }
            try list(CaseTable(.everything, values[Flags.device]).cases, values)
            return true
        }
        let known = try values[Flags.known].map { path in
            guard let text = ProcessFiles.text(path) else {
                throw OptionError("the list of known failures, \(path), cannot be read")
            }
            return try KnownFailures(text)
        }
        prepareProcess()
        let backend = try Backend(
            command: command, socket: values[Flags.socket],
            process: values[Flags.pid].map { Int32(truncatingIfNeeded: $0) },
            log: values[Flags.log], deadline: values[Flags.deadline])
        let runner = try Runner(backend, values[Flags.device], deadline: values[Flags.deadline])
        let cases = try CaseTable(runner.facts, values[Flags.device]).cases
        if values[Flags.list] {
            try list(cases, values)
            return true
        }
        return run(try chosen(cases, values), runner, known, isJSON: values[Flags.json])
    }

    /// No core files of back ends that crash, and no end by a connection that breaks.
    private static func prepareProcess() {
        SignalFD.ignoreBrokenPipes()
        var limit = rlimit(rlim_cur: 0, rlim_max: 0)
        // SAFETY: the structure lives for the call.
        _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &limit)
    }

    private static func list(
        _ cases: [Case], _ values: CommandValues
    ) throws(OptionError) {
        for tested in try chosen(cases, values) { print(tested.name) }
    }

    private static func chosen(
        _ cases: [Case], _ values: CommandValues
    ) throws(OptionError) -> [Case] {
        let words = (values[Flags.only] ?? "").split(separator: " ")
        let wanted = cases.filter { tested in
            let own = tested.name.split(separator: " ")
            return words.allSatisfy { word in
                own.contains { $0 == word || word.last == "*" && $0.hasPrefix(word.dropLast()) }
            }
        }
        guard !wanted.isEmpty else {
            throw OptionError("--only: no case has all of '\(values[Flags.only] ?? "")'")
        }
        let every = values[Flags.every]
        // A hash, so that the choice has no rhythm in common with the table.
        return wanted.enumerated().filter {
            (UInt32(truncatingIfNeeded: $0.offset) &* 2_654_435_761) >> 8 % UInt32(every) == 0
        }.map(\.element)
    }

    private static func run(
        _ cases: [Case], _ runner: Runner, _ known: KnownFailures?, isJSON: Bool
    ) -> Bool {
        let start = Clock.monotonic()
        var results = Results()
        let before = runner.backend.residentSize
        for tested in cases { results.add(tested, runner.run(tested)) }
        let seconds = Double((Clock.monotonic() - start) / 1_000_000) / 1000
        if isJSON {
            print(JSONReport(facts: runner.facts, results: results, seconds: seconds).text)
        } else {
            show(results, runner, seconds: seconds, residentBefore: before)
        }
        guard let known else { return results.failureCount == 0 && !runner.isLost }
        let differences = known.differences(results)
        for difference in differences { complain(difference) }
        return differences.isEmpty && !runner.isLost
    }

    private static func show(
        _ results: Results, _ runner: Runner, seconds: Double, residentBefore: Int?
    ) {
        for line in TextReport(results: results).lines { print(line) }
        print("")
        let sentences = results.sentences
        for sentence in sentences { print("failed: \(sentence)") }
        if !sentences.isEmpty { print("") }
        let notRun = results.count { $0 == .notRun }
        if notRun > 0 { print("not run, because the back end has gone: \(notRun) cases\n") }
        let facts = runner.facts
        print(
            "\(results.all.count) cases in \(seconds) s; features "
                + "0x\(String(facts.features, radix: 16)), protocol features "
                + "0x\(String(facts.protocolFeatures, radix: 16)), \(facts.queueCount) queues"
                + (facts.servesOneClient ? ", ends with its front end" : ""))
        if let size = runner.inflightReplySize {
            print("the reply to GET_INFLIGHT_FD has \(size) bytes")
        }
        let missing = Step.allCases.filter { !$0.isOffered(facts) }.map(\.name)
        if !missing.isEmpty { print("not offered: steps \(missing.joined(separator: ", "))") }
        print(
            "the back end was started \(runner.backend.startCount) times; resident memory "
                + "\(residentBefore.map { "\($0)" } ?? "?") KiB before, "
                + "\(runner.backend.residentSize.map { "\($0)" } ?? "?") KiB after")
        print(leakCount(runner))
    }

    private static func leakCount(_ runner: Runner) -> String {
        if runner.facts.servesOneClient {
            return "descriptors not counted: no process serves two front ends"
        }
        let count = runner.leaks.countedCases
        return count > 0
            ? "descriptors counted after \(count) cases"
            : "descriptors not counted: the process is not known, or /proc does not show them to "
                + "this user"
    }
}
