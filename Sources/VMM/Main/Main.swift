internal import BlockBackend
internal import Glibc
internal import VMM

/// The executable: its name, or its first argument, chooses what it is.
@main
enum Main {
    static func main() {
        let arguments = CommandLine.arguments
        exit(VMMProgram.run(arguments: Array(arguments.dropFirst()), diskSchema: BlockOptions.schema))
    }
}
