import BenchmarkSupport
import Core
import Foundation

/// A back-end program that is measured.
enum Peer: CaseIterable {
    case apus
    case storageDaemon

    var name: String {
        switch self {
        case .apus: "apus-block"
        case .storageDaemon: "qemu-storage-daemon"
        }
    }

    static let storageDaemonPath = "/usr/bin/qemu-storage-daemon"

    /// Starts it, with the I/O engine that is best for it.
    func start(apus: String, image: Image, engine: String?, socket: String) throws -> PeerProcess {
        let queues = "num-queues=2"
        switch self {
        case .apus:
            let engine = engine.map { ",engine=\($0)" } ?? ""
            return try PeerProcess(
                apus,
                [
                    "block", "--socket-path", socket, "--disk",
                    "path=\(image.path),direct=\(image.isDirect ? "on" : "off"),\(queues)\(engine)",
                ])
        case .storageDaemon:
            let cache = image.isDirect ? "cache.direct=on,aio=io_uring" : "aio=threads"
            return try PeerProcess(
                Self.storageDaemonPath,
                [
                    "--blockdev", "driver=file,node-name=disk,filename=\(image.path),\(cache)",
                    "--object", "iothread,id=thread", "--export",
                    "type=vhost-user-blk,id=export,node-name=disk,iothread=thread,writable=on,"
                        + "addr.type=unix,addr.path=\(socket),\(queues)",
                ])
        }
    }
}

/// A disk image, removed when the measurement is over.
final class Image {
    let name: String
    let path: String
    let isDirect: Bool
    private static let size = 256 << 20

    /// - Parameter directory: where to put it.
    init(name: String, directory: String, isDirect: Bool) throws {
        self.name = name
        self.isDirect = isDirect
        path = "\(directory)/apus-benchmark-\(getpid()).img"
        let piece = Data((0..<1 << 20).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) })
        _ = FileManager.default.createFile(atPath: path, contents: nil)
        let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        for _ in 0..<Self.size / piece.count { try handle.write(contentsOf: piece) }
        try handle.synchronize()
        try handle.close()
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}
