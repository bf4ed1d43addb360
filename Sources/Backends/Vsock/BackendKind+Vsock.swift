internal import CLinux
internal import Core
internal import Glibc
package import VhostUser

extension BackendKind {
    /// The program `apus-vsock`: connects a guest's sockets with Unix sockets of the host.
    package static let vsock = BackendKind(
        "vsock", .vsock, noun: "socket device",
        summary: "Connects a virtual machine's sockets with Unix sockets over vhost-user.",
        example: "cid=3,path=guest.vsock",
        schema: VsockOptions.schema,
        systemCalls: { vsockSystemCalls },
        check: { values throws(OptionError) in _ = try VsockOptions(values) },
        open: { try VsockHost.open(VsockOptions($0)) },
        makeDevice: { surroundings in
            let options = try VsockOptions(surroundings.values)
            let host = VsockHost(
                try VsockHost.enter(surroundings.files), prefix: options.name,
                on: surroundings.loop)
            return VsockDevice(host, cid: options.cid, loop: surroundings.loop)
        })

    /// Sockets are connected to by names in the one folder that is open.
    private static var vsockSystemCalls: SystemCallRules {
        var rules = SystemCallRules.backendControl
        rules.allow("fchdir", "connect", "recvfrom")
        rules.allow("socket", argument: 0, oneOf: [Int(AF_UNIX)])
        rules.allow("ioctl", argument: 1, oneOf: [Int(FIONREAD)])
        return rules
    }
}
