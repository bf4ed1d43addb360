internal import Core

/// Feature bits of block devices (VIRTIO 1.3, section 5.2.3), as masks.
enum BlockFeature {
    static let segmentMaximum: UInt64 = 1 << 2  // VIRTIO_BLK_F_SEG_MAX
    static let readOnly: UInt64 = 1 << 5  // VIRTIO_BLK_F_RO
    static let blockSize: UInt64 = 1 << 6  // VIRTIO_BLK_F_BLK_SIZE
    static let flush: UInt64 = 1 << 9  // VIRTIO_BLK_F_FLUSH
    static let topology: UInt64 = 1 << 10  // VIRTIO_BLK_F_TOPOLOGY
    static let configurableCache: UInt64 = 1 << 11  // VIRTIO_BLK_F_CONFIG_WCE
    static let multiQueue: UInt64 = 1 << 12  // VIRTIO_BLK_F_MQ
    static let discard: UInt64 = 1 << 13  // VIRTIO_BLK_F_DISCARD
    static let writeZeroes: UInt64 = 1 << 14  // VIRTIO_BLK_F_WRITE_ZEROES
}

/// What a request asks for (VIRTIO 1.3, section 5.2.6).
enum BlockRequestType {
    static let read: UInt32 = 0  // VIRTIO_BLK_T_IN
    static let write: UInt32 = 1  // VIRTIO_BLK_T_OUT
    static let flush: UInt32 = 4  // VIRTIO_BLK_T_FLUSH
    static let identify: UInt32 = 8  // VIRTIO_BLK_T_GET_ID
    static let discard: UInt32 = 11  // VIRTIO_BLK_T_DISCARD
    static let writeZeroes: UInt32 = 13  // VIRTIO_BLK_T_WRITE_ZEROES
}

/// A request's last byte: how it ended (VIRTIO 1.3, section 5.2.6).
enum BlockStatus: UInt8 {
    case ok = 0  // VIRTIO_BLK_S_OK
    case ioError = 1  // VIRTIO_BLK_S_IOERR
    case unsupported = 2  // VIRTIO_BLK_S_UNSUPP
}

/// Limits that the configuration space announces and the device enforces.
enum BlockLimits {
    static let sectorShift: UInt64 = 9
    /// A request's type, a reserved word and its first sector.
    static let headerSize = 16
    /// A range to discard or to fill with zeroes: sector, number of sectors, flags.
    static let rangeSize = 16
    /// Data segments of a request. With header and status they fit in a ring of 128 entries, the
    /// smallest that is in common use, whether the driver puts them in indirect tables or not.
    static let segments: UInt32 = 126
    static let rangeSectors: UInt32 = 1 << 22
    static let ranges: UInt32 = 32
    /// The only flag of a range: it may be given back (VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP).
    static let unmapFlag: UInt32 = 1
}

/// The configuration space's layout (VIRTIO 1.3, section 5.2.4). Fields for features that are not
/// on offer read as zero.
struct BlockConfig {
    static let size = 96
    /// Where the driver chooses between a write-back and a write-through cache.
    static let writebackOffset = 32

    private(set) var space = ConfigSpace(size: size)

    init(image: RawImage, options: BlockOptions) {
        let topology = image.topology
        let block = image.blockSize
        space.store(image.size >> BlockLimits.sectorShift, at: 0)  // capacity
        space.store(Self.segments(options), at: 12)  // seg_max
        space.store(block, at: 20)  // blk_size
        let perPhysical = max(topology.physicalBlockSize / block, 1)
        space.store(UInt8(perPhysical.trailingZeroBitCount), at: 24)  // physical_block_exp
        space.store(UInt8(truncatingIfNeeded: topology.alignmentOffset / block), at: 25)
        space.store(UInt16(clamping: topology.minimumIOSize / block), at: 26)  // min_io_size
        space.store(topology.optimalIOSize / block, at: 28)  // opt_io_size
        setWriteback(options.isWriteback)
        space.store(UInt16(clamping: options.queueCount), at: 34)  // num_queues
        if image.canDiscard {
            space.store(BlockLimits.rangeSectors, at: 36)  // max_discard_sectors
            space.store(BlockLimits.ranges, at: 40)  // max_discard_seg
            let granularity = max(topology.discardGranularity, block)
            space.store(granularity >> UInt32(BlockLimits.sectorShift), at: 44)
        }
        if !image.isReadOnly {
            space.store(BlockLimits.rangeSectors, at: 48)  // max_write_zeroes_sectors
            space.store(BlockLimits.ranges, at: 52)  // max_write_zeroes_seg
            space.store(UInt8(image.canDiscard ? 1 : 0), at: 56)  // write_zeroes_may_unmap
        }
    }

    mutating func setWriteback(_ isOn: Bool) {
        space.store(isOn ? 1 as UInt8 : 0, at: Self.writebackOffset)
    }

    /// Header and status take two descriptors of the longest chain.
    private static func segments(_ options: BlockOptions) -> UInt32 {
        let ring = max(UInt32(options.maximumQueueSize), 3)
        return min(BlockLimits.segments, ring - 2)
    }
}
