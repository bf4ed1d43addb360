internal import BlockBackend
internal import Glibc
internal import VMM

/// The executable: its name, or its first argument, chooses what it is.
@main
enum Main {
    static func main() {
        let arguments = CommandLine.arguments
        let name = arguments.first.map { $0.split(separator: "/").last ?? "" } ?? ""
        if name == "apus-block" {
            exit(BlockBackendProgram.run(arguments: Array(arguments.dropFirst())))
        }
        if arguments.dropFirst().first == "block" {
            exit(BlockBackendProgram.run(arguments: Array(arguments.dropFirst(2))))
        }
        exit(VMMProgram.run(arguments: Array(arguments.dropFirst()), diskSchema: BlockOptions.schema))
    }
}
