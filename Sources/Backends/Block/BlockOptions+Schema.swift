package import Core

extension BlockOptions {
    /// The only image format there is so far. It has a key, so that a command line that names it
    /// keeps its meaning when there are others.
    enum Format: String, CaseIterable, Sendable { case raw }

    private enum Keys {
        static let path = OptionKey.required(
            "path", .path, help: "the image: a file or a block device")
        static let format = OptionKey(
            "format", .choice(Format.self), default: .raw,
            help: "what the image is; never guessed from its content")
        static let readOnly = OptionKey("readonly", .bool, default: false, help: "refuse writes")
        static let direct = OptionKey(
            "direct", .bool, default: false, help: "bypass the host's page cache (O_DIRECT)")
        static let engine = OptionKey(
            "engine", .choice(Engine.self), default: .automatic,
            help: "how I/O is done; auto takes the best that the host allows; null, for measuring, "
                + "does none: what is read is undefined, and what is written is lost")
        static let threads = OptionKey(
            "threads", .integer(0...64),
            help: "most threads that engine=threads may add to each queue's own; by default "
                + "\(usualHelperCount), and 0 for an image in memory")
        static let queueCount = OptionKey(
            "num-queues", .integer(1...64), default: 4,
            help: "most queues that a driver may use, each with a thread")
        static let queueSize = OptionKey(
            "queue-size", .integer(2...1024), default: 1024, help: "most entries in a queue")
        static let poll = OptionKey(
            "poll-us", .integer(0...1000), default: IdlePolling.usualMicroseconds,
            help: "how long to look for requests before sleeping, in microseconds: at most, or "
                + "ten times that where it halves the wait")
        static let serial = OptionKey(
            "serial", .text("TEXT"), default: "",
            help: "the disk's serial number, at most \(serialSize) bytes")
        static let writeback = OptionKey(
            "writeback", .bool, default: true,
            help: "completed writes may stay in the cache until the guest flushes")
        static let discard = OptionKey(
            "discard", .bool, default: true, help: "let the guest give space back")
        static let blockSize = OptionKey(
            "block-size", .choice(BlockSize.self),
            help: "the guest's logical block size; by default what the image needs")
        static let lock = OptionKey(
            "lock", .bool, default: true,
            help: "keep others from using the image; off while a guest migrates between two "
                + "processes that share it")
    }

    private enum BlockSize: String, CaseIterable, Sendable {
        case small = "512"
        case large = "4096"

        var bytes: UInt32 { self == .small ? 512 : 4096 }
    }

    /// What can be said of a disk: `--disk path=disk.img,readonly=on`.
    package static let schema = OptionSchema(
        "disk", leadingKey: "path",
        keys: [
            Keys.path.any, Keys.format.any, Keys.readOnly.any, Keys.direct.any, Keys.engine.any,
            Keys.threads.any, Keys.queueCount.any, Keys.queueSize.any, Keys.poll.any,
            Keys.serial.any, Keys.writeback.any, Keys.discard.any, Keys.blockSize.any,
            Keys.lock.any,
        ])

    /// Takes what `schema` has parsed.
    package init(_ values: OptionValues) throws(OptionError) {
        self.init(path: values[Keys.path])
        isReadOnly = values[Keys.readOnly]
        isDirect = values[Keys.direct]
        engine = values[Keys.engine]
        helperCount = values[Keys.threads].map { Int(clamping: $0) }
        queueCount = Int(clamping: values[Keys.queueCount])
        maximumQueueSize = UInt16(clamping: values[Keys.queueSize])
        pollMicroseconds = values[Keys.poll]
        serial = values[Keys.serial]
        isWriteback = values[Keys.writeback]
        allowsDiscard = values[Keys.discard]
        blockSize = values[Keys.blockSize]?.bytes
        isLocked = values[Keys.lock]
        guard serial.utf8.count <= Self.serialSize else {
            throw OptionError("serial: '\(serial)' is longer than \(Self.serialSize) bytes")
        }
    }
}
