/// How a device changes the memory that it shares with its driver (VIRTIO 1.3, section 2.10): it
/// asks whoever has made that memory, the front end. Any thread may, and waits for the answer.
public protocol SharedMemoryChannel: AnyObject, Sendable {
    /// Shows a part of a file in a region. All places and sizes are multiples of 4 KiB.
    /// - Throws: also if the front end refuses because something is there already.
    func map(_ piece: SharedMemoryPiece, of fd: SharedFD) throws(SharedMemoryError)

    /// Takes away what is shown in a part of a region.
    func unmap(_ piece: SharedMemoryPiece) throws(SharedMemoryError)
}

/// A part of a region of shared memory.
public struct SharedMemoryPiece: Equatable, Sendable {
    public var region: UInt8
    /// In the region, in bytes.
    public var offset: UInt64
    public var size: UInt64
    /// Where in the file what is shown begins.
    public var fileOffset: UInt64
    /// Whether what the driver writes goes to the file.
    public var isWritable: Bool

    public init(
        region: UInt8, offset: UInt64, size: UInt64, fileOffset: UInt64 = 0,
        isWritable: Bool = false
    ) {
        self.region = region
        self.offset = offset
        self.size = size
        self.fileOffset = fileOffset
        self.isWritable = isWritable
    }
}

/// Why shared memory has not been changed.
public enum SharedMemoryError: Error, Equatable, Sendable {
    /// The front end does not want to, or cannot.
    case refused
    /// There is nobody who could be asked, or no answer.
    case gone
}
