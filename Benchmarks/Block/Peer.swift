import BenchmarkSupport
import Core
import Foundation

/// A back-end program that is measured.
enum Peer: CaseIterable {
    case apus
    case storageDaemon

    var contender: Comparison.Contender {
        switch self {
        case .apus: .init("apus-block", isOurs: true)
        case .storageDaemon: .init("qemu-storage-daemon", isOurs: false)
        }
    }

    static let storageDaemonPath = "/usr/bin/qemu-storage-daemon"

    /// Starts it, with the I/O engine that is best for it.
    func start(apus: String, image: Image, engine: String?, socket: String) throws -> PeerProcess {
        let queues = "num-queues=2"
        switch self {
        case .apus:
            let direct = image.kind == .disk ? "on" : "off"
            let engine = engine ?? (image.kind == .null ? "null" : "auto")
            return try PeerProcess(
                apus,
                [
                    "block", "--socket-path", socket, "--disk",
                    "path=\(image.path),direct=\(direct),engine=\(engine),\(queues)",
                ])
        case .storageDaemon:
            return try PeerProcess(
                Self.storageDaemonPath,
                [
                    "--blockdev", "node-name=disk,\(Self.driver(of: image))",
                    "--object", "iothread,id=thread", "--export",
                    "type=vhost-user-blk,id=export,node-name=disk,iothread=thread,writable=on,"
                        + "addr.type=unix,addr.path=\(socket),\(queues)",
                ])
        }
    }

    /// What the storage daemon serves an image with.
    private static func driver(of image: Image) -> String {
        let file = "driver=file,filename=\(image.path)"
        return switch image.kind {
        case .null: "driver=null-co,size=\(Image.size)"
        case .tmpfs: "\(file),aio=threads"
        case .disk: "\(file),cache.direct=on,aio=io_uring"
        }
    }
}

/// A disk image, removed when the measurement is over.
final class Image {
    enum Kind: String {
        /// Nothing is read or written: what is left is the protocol.
        case null
        /// A file in memory.
        case tmpfs
        /// A file that is used with O_DIRECT.
        case disk
    }

    let kind: Kind
    let path: String
    static let size = 256 << 20

    var name: String { kind.rawValue }

    /// - Parameter directory: where to put it.
    init(_ kind: Kind, directory: String) throws {
        self.kind = kind
        path = "\(directory)/apus-benchmark-\(kind.rawValue)-\(getpid()).img"
        _ = FileManager.default.createFile(atPath: path, contents: nil)
        let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        try handle.truncate(atOffset: UInt64(Self.size))
        if kind != .null {
            let piece = Data((0..<1 << 20).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) })
            for _ in 0..<Self.size / piece.count { try handle.write(contentsOf: piece) }
        }
        try handle.synchronize()
        try handle.close()
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}
