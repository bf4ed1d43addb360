import BenchmarkSupport
import Foundation
import TestSupport

/// Where frames go.
enum NetworkPath: String {
    /// Nowhere: the device drops them.
    case sink
    /// To another device.
    case forward
    /// To the host, by a tap interface in a network namespace of its own, where nobody wants them.
    case tap
}

/// A program with network devices.
enum NetworkPeer: CaseIterable {
    case apus
    /// DPDK's vhost driver under `testpmd`, which never sleeps.
    case dpdk
    case qemu

    static let testpmdPath = "/usr/bin/dpdk-testpmd"
    static let qemuPath = "/usr/bin/qemu-system-x86_64"

    var contender: Comparison.Contender {
        switch self {
        case .apus: .init("apus-net", isOurs: true)
        case .dpdk: .init("DPDK testpmd", isOurs: false)
        case .qemu: .init("QEMU", isOurs: false)
        }
    }

    /// Whether it has such a path that can be compared.
    func has(_ path: NetworkPath) -> Bool {
        switch self {
        case .apus: true
        case .dpdk: path != .tap
        case .qemu: path == .tap
        }
    }

    /// Starts it.
    func start(_ path: NetworkPath, apus: String, socket: String, cpu: Int) throws -> [PeerProcess]
    {
        switch self {
        case .apus:
            let ports = ["\(socket).0", "\(socket).1"]
            switch path {
            case .sink:
                let link = ["net", "--socket-path", ports[0], "--net", "none,poll-us=always"]
                return [try PeerProcess(apus, link)]
            case .forward:
                let vhost = ports.flatMap { ["--vhost", $0] }
                return [try PeerProcess(apus, ["switch", "--poll-us", "always"] + vhost)]
            case .tap:
                let link = "tap,ifname=\(Self.interface)"
                return [
                    try Self.startApart([apus, "net", "--socket-path", ports[0], "--net", link])
                ]
            }
        case .dpdk: return [try Self.startTestpmd(path, socket: socket, cpu: cpu)]
        case .qemu: return [try Self.startQEMU(socket: socket)]
        }
    }

    /// Connects to what was started.
    func connect(_ path: NetworkPath, socket: String) throws -> [any NetworkPort] {
        if self == .qemu {
            return [try QEMUPort(path: "\(socket).0", memory: Self.memory(socket))]
        }
        return try (0..<(path == .forward ? 2 : 1)).map {
            try VhostUserPort(path: "\(socket).\($0)")
        }
    }

    /// Removes what is left of it.
    static func clean(socket: String) {
        let files = [
            "\(socket).0", "\(socket).1", "\(socket).link", memory(socket), kernel(socket),
        ]
        for file in files { unsafe unlink(file) }
    }

    private static let interface = "tap0"

    private static func kernel(_ socket: String) -> String { "\(socket).kernel" }

    private static func memory(_ socket: String) -> String {
        "/dev/shm/\(socket.split(separator: "/").last ?? "").memory"
    }

    /// Starts a program in a network namespace of its own.
    private static func startApart(_ command: [String]) throws -> PeerProcess {
        try PeerProcess("/usr/bin/unshare", ["-n"] + command)
    }

    /// Makes the host take frames from the tap interface of a program that does not see to it.
    static func raiseInterface(_ process: PeerProcess) throws {
        let command = [
            "/usr/bin/nsenter", "-t", "\(process.processID)", "-n", "/bin/ip", "link", "set",
            interface, "up",
        ]
        let tool = Process()
        tool.executableURL = URL(fileURLWithPath: command[0])
        tool.arguments = Array(command.dropFirst())
        try tool.run()
        tool.waitUntilExit()
        guard tool.terminationStatus == 0 else {
            throw CocoaError(.featureUnsupported)
        }
    }

    private static func startTestpmd(
        _ path: NetworkPath, socket: String, cpu: Int
    ) throws -> PeerProcess {
        let ports = (0..<(path == .forward ? 2 : 1)).flatMap {
            ["--vdev", "net_vhost\($0),iface=\(socket).\($0),queues=1"]
        }
        let mode = path == .forward ? "io" : "rxonly"
        return try PeerProcess(
            testpmdPath,
            [
                "--no-huge", "-m", "512", "--no-pci", "--file-prefix=apus", "--lcores",
                "0@\(cpu),1@\(cpu)",
            ]
                + ports + [
                    "--", "--total-num-mbufs=16384", "--forward-mode=\(mode)", "--auto-start",
                    "--stats-period=3600",
                ], isQuiet: true)
    }

    private static func startQEMU(socket: String) throws -> PeerProcess {
        let size = NetworkSetting.memorySize
        // Its CPU stands still.
        try Data(TinyKernel.halts).write(to: URL(fileURLWithPath: kernel(socket)))
        return try startApart([
            qemuPath, "-kernel", kernel(socket), "-accel", "tcg", "-nodefaults", "-display", "none",
            "-m",
            "\(size >> 20)M", "-object",
            "memory-backend-file,id=memory,size=\(size),mem-path=\(memory(socket)),share=on",
            "-machine", "microvm,memory-backend=memory", "-global",
            "virtio-mmio.force-legacy=false", "-qtest",
            "unix:\(socket).0,server=on,wait=off", "-qtest-log", "none", "-netdev",
            "tap,id=net,ifname=\(interface),script=no,downscript=no", "-device",
            "virtio-net-device,netdev=net",
        ])
    }
}
