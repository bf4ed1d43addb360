internal import Core

/// How a disk is to be served. What the command line and the VMM say is parsed into this once.
package struct BlockOptions: Equatable, Sendable {
    /// Who does the I/O.
    package enum Engine: String, CaseIterable, Sendable {
        /// The best that the host allows for this image.
        case automatic = "auto"
        case ioURing = "io_uring"
        /// Linux asynchronous I/O; only with direct I/O.
        case aio
        /// Ordinary system calls in threads.
        case threads
        /// Nobody: reads leave buffers as they are, and what is written is lost. To measure the rest.
        case null
    }

    /// The image: a regular file or a block device. Its content is the disk's content, byte for
    /// byte; other formats are not guessed.
    package var path: String
    package var isReadOnly = false
    /// Bypass the host's page cache (O_DIRECT).
    package var isDirect = false
    package var engine = Engine.automatic
    /// Threads that each queue may have besides its own, where ordinary system calls do the I/O;
    /// `nil`: none for images in memory, otherwise `usualHelperCount`.
    package var helperCount: Int?
    package var queueCount = 4
    /// How long a queue's thread looks for requests before it sleeps, at most.
    package var pollMicroseconds = IdlePolling.usualMicroseconds
    /// The largest ring that a driver may make.
    package var maximumQueueSize: UInt16 = 1024
    /// What the guest sees as the disk's serial number; at most 20 bytes.
    package var serial = ""
    /// Whether completed writes may still be in a cache until the guest flushes.
    package var isWriteback = true
    /// Whether the guest may give space back.
    package var allowsDiscard = true
    /// The guest's logical block size; `nil`: what the image needs, at least 512.
    package var blockSize: UInt32?
    /// Whether the image is locked against other users.
    package var isLocked = true

    static let usualHelperCount = 8

    package init(path: String) { self.path = path }

    /// The serial number has this many bytes on the wire (VIRTIO 1.3, section 5.2.6).
    package static let serialSize = 20
}

/// A disk could not be set up; the description is one sentence for the user.
package struct BlockError: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}
