import Foundation
import TestSupport

/// A guest that is started by somebody who has no privileges.
final class UserGuest {
    let program: RunningProgram
    private let binary: String

    /// - Parameter mayHaveNamespaces: whether the host allows user namespaces.
    init(in folder: TestFolder, mayHaveNamespaces: Bool) throws {
        guard let built = Setting.binary else { throw TestFailure("there is no executable") }
        binary = "\(folder.path)/apus"
        let disk = "\(folder.path)/root.ext4"
        try Guest.makeDisk(disk)
        for name in ["vmlinuz", "initramfs"] {
            let source = URL(fileURLWithPath: try Guest.path(name)).resolvingSymlinksInPath()
            try FileManager.default.copyItem(
                at: source, to: URL(fileURLWithPath: "\(folder.path)/\(name)"))
        }
        try copyProgram(built, to: binary)
        _ = try runTool("chmod", ["-R", "a+rwX", folder.path])
        let forbid = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\""
        let start = mayHaveNamespaces ? [] : ["unshare", "-Ur", "sh", "-c", forbid, "sh"]
        program = try RunningProgram(
            "/usr/bin/env",
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] + start + [
                binary, "--kernel", "\(folder.path)/vmlinuz",
                "--initramfs", "\(folder.path)/initramfs", "--cmdline", Guest.commandLine,
                "--memory", "size=256M", "--disk", "path=\(disk)", "--log-level", "info",
            ])
    }

    func isOurs(_ process: (id: Int32, arguments: [String])) -> Bool {
        [binary, "apus-launcher", "apus-block"].contains(process.arguments.first)
    }
}
