internal import Core

/// Device status bits (VIRTIO 1.3, section 2.1).
enum VirtioStatus {
    static let acknowledge: UInt8 = 1
    static let driver: UInt8 = 2
    static let driverOK: UInt8 = 4
    static let featuresOK: UInt8 = 8
    static let needsReset: UInt8 = 64
    static let failed: UInt8 = 128
}

/// What the driver has set in the common configuration (VIRTIO 1.3, section 4.1.4.3), and the ISR.
///
/// Writes that only change a register are done here; the others come back as an action, for the
/// control thread.
struct VirtioRegisters {
    /// Means "no interrupt" (VIRTIO_MSI_NO_VECTOR).
    static let noVector: UInt16 = 0xFFFF

    struct Queue: Equatable {
        var maximumSize: UInt16
        var size: UInt16
        var vector = VirtioRegisters.noVector
        var isEnabled = false
        var descriptors: UInt64 = 0
        var driver: UInt64 = 0
        var device: UInt64 = 0

        init(maximumSize: UInt16) {
            self.maximumSize = maximumSize
            size = maximumSize
        }

        var layout: QueueLayout {
            QueueLayout(
                size: size, descriptors: GuestAddress(descriptors), driver: GuestAddress(driver),
                device: GuestAddress(device))
        }
    }

    /// What a register write asks the control thread for.
    enum Action: Equatable {
        case none
        case setStatus(UInt8)
        case enableQueue(Int)
        case resetQueue(Int)
        case routeInterrupts
    }

    /// The fields' offsets.
    private enum Field {
        static let deviceFeatureSelect: UInt64 = 0
        static let driverFeatureSelect: UInt64 = 8
        static let driverFeature: UInt64 = 12
        static let configVector: UInt64 = 16
        static let status: UInt64 = 20
        static let queueSelect: UInt64 = 22
        static let queueSize: UInt64 = 24
        static let queueVector: UInt64 = 26
        static let queueEnable: UInt64 = 28
        static let queueDescriptors: UInt64 = 32
        static let queueDriver: UInt64 = 40
        static let queueDevice: UInt64 = 48
        static let queueReset: UInt64 = 58
    }

    let vectorCount: UInt16
    /// On offer.
    var offered: UInt64
    var queues: [Queue]
    var accepted: UInt64 = 0
    /// What was accepted when the device was told.
    var negotiated: UInt64 = 0
    var status: UInt8 = 0
    var isr: UInt8 = 0
    var configVector = VirtioRegisters.noVector
    var configGeneration: UInt8 = 0
    private var deviceFeatureSelect: UInt32 = 0
    private var driverFeatureSelect: UInt32 = 0
    private var queueSelect: UInt16 = 0

    init(offered: UInt64, maximumQueueSizes: [UInt16], vectorCount: Int) {
        self.offered = offered
        self.vectorCount = UInt16(clamping: vectorCount)
        queues = maximumQueueSizes.map(Queue.init(maximumSize:))
    }

    /// After a device reset. The configuration's generation goes on, for drivers that compare.
    mutating func reset(offered: UInt64) {
        var fresh = VirtioRegisters(
            offered: offered, maximumQueueSizes: queues.map(\.maximumSize),
            vectorCount: Int(vectorCount))
        fresh.configGeneration = configGeneration
        self = fresh
    }

    private var selected: Int? {
        queues.indices.contains(Int(queueSelect)) ? Int(queueSelect) : nil
    }

    // MARK: Reading

    /// Bytes of the structure; those past its end are zero.
    func read(offset: UInt64, size: Int) -> UInt64 {
        guard offset < 64 else { return 0 }
        return image.littleEndian(Int(offset), size: size)
    }

    /// The whole structure, as the driver would read it now.
    private var image: [UInt8] {
        let queue = selected.map { queues[$0] }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(64)
        bytes.appendLittleEndian(deviceFeatureSelect)
        bytes.appendLittleEndian(Self.word(offered, deviceFeatureSelect))
        bytes.appendLittleEndian(driverFeatureSelect)
        bytes.appendLittleEndian(Self.word(accepted, driverFeatureSelect))
        bytes.appendLittleEndian(configVector)
        bytes.appendLittleEndian(UInt16(clamping: queues.count))
        bytes.appendLittleEndian(status)
        bytes.appendLittleEndian(configGeneration)
        bytes.appendLittleEndian(queueSelect)
        bytes.appendLittleEndian(queue?.size ?? 0)
        bytes.appendLittleEndian(queue?.vector ?? Self.noVector)
        bytes.appendLittleEndian(queue?.isEnabled == true ? UInt16(1) : 0)
        bytes.appendLittleEndian(queue == nil ? UInt16(0) : queueSelect)  // queue_notify_off
        bytes.appendLittleEndian(queue?.descriptors ?? 0)
        bytes.appendLittleEndian(queue?.driver ?? 0)
        bytes.appendLittleEndian(queue?.device ?? 0)
        // queue_notif_config_data, queue_reset (a reset is over when the write returns), and the
        // administration queues, of which there are none.
        bytes.appendLittleEndian(UInt64(0))
        return bytes
    }

    private static func word(_ features: UInt64, _ select: UInt32) -> UInt32 {
        select < 2 ? UInt32(truncatingIfNeeded: features >> (32 * UInt64(select))) : 0
    }

    // MARK: Writing

    /// Writes a field in its natural width, or half of a 64-bit field; other accesses do nothing.
    mutating func write(offset: UInt64, size: Int, _ value: UInt64) -> Action {
        let word = UInt16(truncatingIfNeeded: value)
        switch (offset, size) {
        case (Field.deviceFeatureSelect, 4): deviceFeatureSelect = UInt32(truncatingIfNeeded: value)
        case (Field.driverFeatureSelect, 4): driverFeatureSelect = UInt32(truncatingIfNeeded: value)
        case (Field.driverFeature, 4): acceptFeatures(value)
        case (Field.configVector, 2):
            configVector = word < vectorCount ? word : Self.noVector
        case (Field.status, 1): return .setStatus(UInt8(truncatingIfNeeded: value))
        case (Field.queueSelect, 2): queueSelect = word
        default: return writeQueue(offset, size, value)
        }
        return .none
    }

    private mutating func acceptFeatures(_ value: UInt64) {
        // Features are settled once FEATURES_OK is set.
        guard driverFeatureSelect < 2, status & VirtioStatus.featuresOK == 0 else { return }
        let shift = 32 * UInt64(driverFeatureSelect)
        accepted = (accepted & ~(0xFFFF_FFFF << shift)) | (value & 0xFFFF_FFFF) << shift
    }

    private mutating func writeQueue(_ offset: UInt64, _ size: Int, _ value: UInt64) -> Action {
        guard let index = selected else { return .none }
        let word = UInt16(truncatingIfNeeded: value)
        switch (offset, size) {
        case (Field.queueVector, 2):
            queues[index].vector = word < vectorCount ? word : Self.noVector
            return .routeInterrupts
        case (Field.queueEnable, 2):
            return word == 1 && !queues[index].isEnabled ? .enableQueue(index) : .none
        case (Field.queueReset, 2):
            guard word == 1, negotiated & VirtioFeature.ringReset != 0 else { return .none }
            return .resetQueue(index)
        default: break
        }
        // A queue in use keeps its layout (section 4.1.4.3.2).
        guard !queues[index].isEnabled else { return .none }
        switch (offset, size) {
        case (Field.queueSize, 2):
            if word > 0, word <= queues[index].maximumSize { queues[index].size = word }
        case (Field.queueDescriptors..<Field.queueDescriptors + 8, 4...):
            Self.set(&queues[index].descriptors, offset, size, value)
        case (Field.queueDriver..<Field.queueDriver + 8, 4...):
            Self.set(&queues[index].driver, offset, size, value)
        case (Field.queueDevice..<Field.queueDevice + 8, 4...):
            Self.set(&queues[index].device, offset, size, value)
        default: break
        }
        return .none
    }

    /// Sets all of a 64-bit field or one half of it.
    private static func set(_ field: inout UInt64, _ offset: UInt64, _ size: Int, _ value: UInt64) {
        switch (offset & 7, size) {
        case (0, 8): field = value
        case (0, 4): field = (field & ~0xFFFF_FFFF) | (value & 0xFFFF_FFFF)
        case (4, 4): field = (field & 0xFFFF_FFFF) | value << 32
        default: break
        }
    }
}
