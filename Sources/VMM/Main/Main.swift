internal import BlockBackend
internal import CLinux
internal import Glibc
internal import VMM

/// The executable: its name, or its first argument, chooses what it is.
@main
enum Main {
    static func main() {
        openStandardStreams()
        let arguments = CommandLine.arguments
        let name = arguments.first.map { $0.split(separator: "/").last ?? "" } ?? ""
        if name == "apus-block" {
            // Processes that the VMM starts come from /proc/self/exe, which is no name for `ps`.
            // SAFETY: the string lives for the call.
            _ = unsafe clinux_set_thread_name("apus-block")
            exit(BlockBackendProgram.run(arguments: Array(arguments.dropFirst())))
        }
        if arguments.dropFirst().first == "block" {
            exit(BlockBackendProgram.run(arguments: Array(arguments.dropFirst(2))))
        }
        exit(
            VMMProgram.run(
                arguments: Array(arguments.dropFirst()), diskSchema: BlockOptions.schema))
    }

    /// A standard stream that was closed would come back as the next file that is opened, and a
    /// guest's memory or a message would become its input or output.
    private static func openStandardStreams() {
        // SAFETY: the path lives for the call.
        while (0...STDERR_FILENO).contains(unsafe clinux_open("/dev/null", O_RDWR, 0)) {}
    }
}
