import Core
import VhostUser

@testable import BlockBackend
@testable import ConsoleBackend
@testable import FileSystemBackend
@testable import NetworkBackend
@testable import RandomBackend
@testable import VMM
@testable import VsockBackend

/// Command lines of the two programs, an argument a line.
struct OptionsTarget: FuzzTarget {
    static let name = "options"
    static let about = "command lines of apus and apus-block"

    static let seeds = [
        """
        --kernel
        k
        --initramfs=i
        --cmdline
        quiet root=/dev/vda
        --cpus
        2
        --memory
        size=256M,hugepages=on,hugepage_size=2M,host_nodes=[0,1],policy=bind
        --accel=tcg,clock=counted
        --disk
        path=d,readonly=on,num-queues=2,engine=threads,threads=4
        --disk
        socket=/tmp/s
        --console
        null,ports=["listen=/s,name=x"]
        --rng
        max-bytes=5
        --vhost-user
        type=fs,socket=f
        --qmp
        listen=/s
        --name
        a machine
        --serial
        file,path=log
        --on-reboot
        exit
        --log-level
        info
        """, "--kernel=k\n--disk=path=\"a,\"\"b\"\n--memory\n0x10000000", "--help", "--version",
        "--socket-path=b\n--disk\npath=d,engine=io_uring\n--read-only\n--open-fds\n[4,5]",
    ].map { Array($0.utf8) }

    private let command = VMMCommand(backends: [
        .block, .console, .fileSystem, .network, .random, .vsock,
    ])

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let text = String(decoding: input.rest(), as: UTF8.self)
        let arguments = text.split(separator: "\n", omittingEmptySubsequences: false)
            .map(String.init)
        let isBlock = try parseBlock(arguments)
        let request: VMMCommand.Request
        do {
            request = try command.parse(arguments).request
        } catch {
            try require(!error.description.isEmpty, "an error says nothing")
            return isBlock || !error.description.contains("options start with --")
        }
        guard case .run(let options) = request else { return true }
        for device in options.devices {
            if case .child(let child) = device.source { try checkPassedOn(child) }
        }
        return true
    }

    /// What is passed on to a back end must be read there.
    private func checkPassedOn(_ child: DeviceOptions.Child) throws {
        do {
            try child.kind.check(try child.kind.schema.parse(child.values.text))
        } catch {
            throw FuzzFailure("the back end refuses '\(child.values.text)': \(error)")
        }
    }

    private func parseBlock(_ arguments: [String]) throws -> Bool {
        do {
            _ = try BackendCommand(.block, arguments)
            return true
        } catch {
            try require(!error.description.isEmpty, "an error says nothing")
            return false
        }
    }
}
