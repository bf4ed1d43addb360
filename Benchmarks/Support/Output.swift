package import Core
import Foundation

/// Prints a line at once, even into a pipe.
package func show(_ line: String) {
    FileHandle.standardOutput.write(Data("\(line)\n".utf8))
}

/// Parses the command line of a benchmark and runs it; an error is one sentence, and status 1.
/// - Parameter isHelp: whether the user asks for the help text only.
package func runBenchmark(
    _ schema: CommandSchema, isHelp: Flag<Bool>, _ body: (CommandValues) throws -> Void
) {
    do {
        let values = try schema.parse(Array(CommandLine.arguments.dropFirst()))
        if values[isHelp] { return print(schema.help, terminator: "") }
        try body(values)
    } catch {
        let name = CommandLine.arguments.first?.split(separator: "/").last ?? "benchmark"
        FileHandle.standardError.write(Data("\(name): \(error)\n".utf8))
        exit(1)
    }
}
