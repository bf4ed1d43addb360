/// A part of a message, whose fields are named once, in their order, for both directions.
package protocol WirePayload: Equatable, Sendable {
    /// With all fields zero.
    init()
    mutating func visit<C: WireCursor>(_ cursor: inout C) throws(C.Failure)
    /// Refuses values that have no meaning.
    func check(_ message: String) throws(ProtocolError)
}

extension WirePayload {
    package init(_ reader: inout WireReader) throws(ProtocolError) {
        self.init()
        try visit(&reader)
        try check(reader.message)
    }

    package func write(to writer: inout WireWriter) {
        var copy = self
        copy.visit(&writer)
    }

    package func check(_ message: String) throws(ProtocolError) {}
}

/// A queue and a number about it.
package struct VringState: WirePayload {
    package var index: UInt32 = 0
    package var value: UInt32 = 0

    package init() {}

    package init(index: UInt32, value: UInt32) {
        self.index = index
        self.value = value
    }

    package mutating func visit<C: WireCursor>(_ cursor: inout C) throws(C.Failure) {
        try cursor.field("index", &index)
        try cursor.field("num", &value)
    }
}

/// Where the parts of a queue are, by user address.
package struct VringAddress: WirePayload {
    /// Writes to the used ring are to be logged.
    package static let logFlag: UInt32 = 1  // VHOST_VRING_F_LOG

    package var index: UInt32 = 0
    package var flags: UInt32 = 0
    package var descriptors: UInt64 = 0
    package var used: UInt64 = 0
    package var available: UInt64 = 0
    package var log: UInt64 = 0

    package init() {}

    package init(
        index: UInt32, flags: UInt32 = 0, descriptors: UInt64, used: UInt64, available: UInt64,
        log: UInt64 = 0
    ) {
        self.index = index
        self.flags = flags
        self.descriptors = descriptors
        self.used = used
        self.available = available
        self.log = log
    }

    package mutating func visit<C: WireCursor>(_ cursor: inout C) throws(C.Failure) {
        try cursor.field("index", &index)
        try cursor.field("flags", &flags)
        try cursor.field("descriptor", &descriptors)
        try cursor.field("used", &used)
        try cursor.field("available", &available)
        try cursor.field("log", &log)
    }
}

/// A piece of guest memory: where the guest sees it, where the front end does, and where in the
/// accompanying file it begins.
package struct MemoryRegionDescription: WirePayload {
    package var guestAddress: UInt64 = 0
    package var size: UInt64 = 0
    package var userAddress: UInt64 = 0
    package var mmapOffset: UInt64 = 0

    package init() {}

    package init(guestAddress: UInt64, size: UInt64, userAddress: UInt64, mmapOffset: UInt64) {
        self.guestAddress = guestAddress
        self.size = size
        self.userAddress = userAddress
        self.mmapOffset = mmapOffset
    }

    package mutating func visit<C: WireCursor>(_ cursor: inout C) throws(C.Failure) {
        try cursor.field("guest address", &guestAddress)
        try cursor.field("region size", &size)
        try cursor.field("user address", &userAddress)
        try cursor.field("mmap offset", &mmapOffset)
    }
}

/// Where in a file the dirty log is.
package struct LogDescription: WirePayload {
    package var size: UInt64 = 0
    package var offset: UInt64 = 0

    package init() {}

    package init(size: UInt64, offset: UInt64) {
        self.size = size
        self.offset = offset
    }

    package mutating func visit<C: WireCursor>(_ cursor: inout C) throws(C.Failure) {
        try cursor.field("log size", &size)
        try cursor.field("log offset", &offset)
    }
}

/// A part of the device's configuration space.
package struct ConfigAccess: Equatable, Sendable {
    /// The most bytes in one message.
    package static let maximumSize = 256  // VHOST_USER_MAX_CONFIG_SIZE
    /// The driver writes (0) or migration does (1).
    package static let migrationFlag: UInt32 = 1

    package var offset: UInt32
    package var flags: UInt32
    package var contents: [UInt8]

    package init(offset: UInt32, flags: UInt32 = 0, contents: [UInt8]) {
        self.offset = offset
        self.flags = flags
        self.contents = contents
    }

    package init(_ reader: inout WireReader) throws(ProtocolError) {
        offset = try reader.u32("config offset")
        let size = try reader.u32("config size")
        flags = try reader.u32("config flags")
        guard size <= UInt32(Self.maximumSize) else {
            throw ProtocolError(
                reader.message, "config size", "\(size) is more than \(Self.maximumSize)")
        }
        contents = try reader.take("config contents", Int(size))
    }

    package func write(to writer: inout WireWriter) {
        writer.append(offset)
        writer.append(UInt32(truncatingIfNeeded: contents.count))
        writer.append(flags)
        writer.append(contents)
    }
}

/// The memory in which a back end notes what is in flight.
package struct InflightDescription: WirePayload {
    package var mmapSize: UInt64 = 0
    package var mmapOffset: UInt64 = 0
    package var queueCount: UInt16 = 0
    package var queueSize: UInt16 = 0

    package init() {}

    package init(mmapSize: UInt64, mmapOffset: UInt64, queueCount: UInt16, queueSize: UInt16) {
        self.mmapSize = mmapSize
        self.mmapOffset = mmapOffset
        self.queueCount = queueCount
        self.queueSize = queueSize
    }

    package mutating func visit<C: WireCursor>(_ cursor: inout C) throws(C.Failure) {
        try cursor.field("mmap size", &mmapSize)
        try cursor.field("mmap offset", &mmapOffset)
        try cursor.field("num queues", &queueCount)
        try cursor.field("queue size", &queueSize)
        cursor.trailer(4)
    }
}

/// A change of, or a question about, an I/O address's translation.
package struct IOTLBMessage: WirePayload {
    package var iova: UInt64 = 0
    package var size: UInt64 = 0
    package var userAddress: UInt64 = 0
    package var permissions: UInt8 = 0
    package var type: UInt8 = 0

    package init() {}

    package init(
        iova: UInt64, size: UInt64, userAddress: UInt64, permissions: UInt8, type: UInt8
    ) {
        self.iova = iova
        self.size = size
        self.userAddress = userAddress
        self.permissions = permissions
        self.type = type
    }

    package mutating func visit<C: WireCursor>(_ cursor: inout C) throws(C.Failure) {
        try cursor.field("iova", &iova)
        try cursor.field("iotlb size", &size)
        try cursor.field("user address", &userAddress)
        try cursor.field("permissions", &permissions)
        try cursor.field("type", &type)
        cursor.trailer(6)
    }

    package static let miss: UInt8 = 1
    package static let update: UInt8 = 2
    package static let invalidate: UInt8 = 3

    package func check(_ message: String) throws(ProtocolError) {
        guard (1...4).contains(type) else {
            throw ProtocolError(message, "type", "\(type) is not 1 to 4")
        }
        // In invalidations they have no meaning, and QEMU leaves there what was there.
        guard permissions <= 3 || type == Self.invalidate else {
            throw ProtocolError(message, "permissions", "\(permissions) is not 0 to 3")
        }
    }
}

/// How a device's state is to be transferred.
package struct DeviceStateTransfer: WirePayload {
    /// 0 saves, 1 loads.
    package var direction: UInt32 = 0
    /// Only 0, with all queues stopped, is defined.
    package var phase: UInt32 = 0

    package init() {}

    package init(direction: UInt32, phase: UInt32) {
        self.direction = direction
        self.phase = phase
    }

    package mutating func visit<C: WireCursor>(_ cursor: inout C) throws(C.Failure) {
        try cursor.field("direction", &direction)
        try cursor.field("phase", &phase)
    }

    package func check(_ message: String) throws(ProtocolError) {
        guard direction <= 1 else {
            throw ProtocolError(message, "direction", "\(direction) is not 0 or 1")
        }
        guard phase == 0 else {
            throw ProtocolError(message, "phase", "\(phase) is not 0")
        }
    }
}

/// The area to map as a queue's notification register.
package struct VringArea: WirePayload {
    package var queueAndFlags: UInt64 = 0
    package var size: UInt64 = 0
    package var offset: UInt64 = 0

    package init() {}

    package init(queueAndFlags: UInt64, size: UInt64, offset: UInt64) {
        self.queueAndFlags = queueAndFlags
        self.size = size
        self.offset = offset
    }

    package mutating func visit<C: WireCursor>(_ cursor: inout C) throws(C.Failure) {
        try cursor.field("u64", &queueAndFlags)
        try cursor.field("area size", &size)
        try cursor.field("area offset", &offset)
    }
}

/// A mapping of a file into a shared memory region of the device.
package struct SharedMemoryMap: WirePayload {
    /// Of `flags`: pages may be written, too.
    package static let writable: UInt64 = 1 << 0

    package var regionID: UInt8 = 0
    package var fdOffset: UInt64 = 0
    package var offset: UInt64 = 0
    package var size: UInt64 = 0
    package var flags: UInt64 = 0

    package init() {}

    package init(regionID: UInt8, fdOffset: UInt64, offset: UInt64, size: UInt64, flags: UInt64) {
        self.regionID = regionID
        self.fdOffset = fdOffset
        self.offset = offset
        self.size = size
        self.flags = flags
    }

    package mutating func visit<C: WireCursor>(_ cursor: inout C) throws(C.Failure) {
        try cursor.field("shmid", &regionID)
        try cursor.padding(7)
        try cursor.field("fd_offset", &fdOffset)
        try cursor.field("shm_offset", &offset)
        try cursor.field("len", &size)
        try cursor.field("flags", &flags)
    }
}
