/// A part of a message that reads and writes itself.
package protocol WirePayload: Equatable, Sendable {
    init(_ reader: inout WireReader) throws(ProtocolError)
    func write(to writer: inout WireWriter)
}

extension WirePayload {
    package var bytes: [UInt8] {
        var writer = WireWriter()
        write(to: &writer)
        return writer.bytes
    }
}

/// A queue and a number about it.
package struct VringState: WirePayload {
    package static let byteCount = 8
    package var index: UInt32
    package var value: UInt32

    package init(index: UInt32, value: UInt32) {
        self.index = index
        self.value = value
    }

    package init(_ reader: inout WireReader) throws(ProtocolError) {
        index = try reader.u32("index")
        value = try reader.u32("num")
    }

    package func write(to writer: inout WireWriter) {
        writer.append(index)
        writer.append(value)
    }
}

/// Where the parts of a queue are, by user address.
package struct VringAddress: WirePayload {
    /// Writes to the used ring are to be logged.
    package static let logFlag: UInt32 = 1  // VHOST_VRING_F_LOG

    package var index: UInt32
    package var flags: UInt32
    package var descriptors: UInt64
    package var used: UInt64
    package var available: UInt64
    package var log: UInt64

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

    package init(_ reader: inout WireReader) throws(ProtocolError) {
        index = try reader.u32("index")
        flags = try reader.u32("flags")
        descriptors = try reader.u64("descriptor")
        used = try reader.u64("used")
        available = try reader.u64("available")
        log = try reader.u64("log")
    }

    package func write(to writer: inout WireWriter) {
        writer.append(index)
        writer.append(flags)
        writer.append(descriptors)
        writer.append(used)
        writer.append(available)
        writer.append(log)
    }
}

/// A piece of guest memory: where the guest sees it, where the front end does, and where in the
/// accompanying file it begins.
package struct MemoryRegionDescription: WirePayload {
    package var guestAddress: UInt64
    package var size: UInt64
    package var userAddress: UInt64
    package var mmapOffset: UInt64

    package init(guestAddress: UInt64, size: UInt64, userAddress: UInt64, mmapOffset: UInt64) {
        self.guestAddress = guestAddress
        self.size = size
        self.userAddress = userAddress
        self.mmapOffset = mmapOffset
    }

    package init(_ reader: inout WireReader) throws(ProtocolError) {
        guestAddress = try reader.u64("guest address")
        size = try reader.u64("region size")
        userAddress = try reader.u64("user address")
        mmapOffset = try reader.u64("mmap offset")
    }

    package func write(to writer: inout WireWriter) {
        writer.append(guestAddress)
        writer.append(size)
        writer.append(userAddress)
        writer.append(mmapOffset)
    }
}

/// Where in a file the dirty log is.
package struct LogDescription: WirePayload {
    package var size: UInt64
    package var offset: UInt64

    package init(size: UInt64, offset: UInt64) {
        self.size = size
        self.offset = offset
    }

    package init(_ reader: inout WireReader) throws(ProtocolError) {
        size = try reader.u64("log size")
        offset = try reader.u64("log offset")
    }

    package func write(to writer: inout WireWriter) {
        writer.append(size)
        writer.append(offset)
    }
}

/// A part of the device's configuration space.
package struct ConfigAccess: WirePayload {
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
    package var mmapSize: UInt64
    package var mmapOffset: UInt64
    package var queueCount: UInt16
    package var queueSize: UInt16

    package init(mmapSize: UInt64, mmapOffset: UInt64, queueCount: UInt16, queueSize: UInt16) {
        self.mmapSize = mmapSize
        self.mmapOffset = mmapOffset
        self.queueCount = queueCount
        self.queueSize = queueSize
    }

    package init(_ reader: inout WireReader) throws(ProtocolError) {
        mmapSize = try reader.u64("mmap size")
        mmapOffset = try reader.u64("mmap offset")
        queueCount = try reader.u16("num queues")
        queueSize = try reader.u16("queue size")
    }

    /// The four bytes of padding belong to C's struct, which most programs send as it is.
    package func write(to writer: inout WireWriter) {
        writer.append(mmapSize)
        writer.append(mmapOffset)
        writer.append(queueCount)
        writer.append(queueSize)
        writer.append(UInt32(0))
    }
}

/// A change of, or a question about, an I/O address's translation.
package struct IOTLBMessage: WirePayload {
    package var iova: UInt64
    package var size: UInt64
    package var userAddress: UInt64
    package var permissions: UInt8
    package var type: UInt8

    package init(
        iova: UInt64, size: UInt64, userAddress: UInt64, permissions: UInt8, type: UInt8
    ) {
        self.iova = iova
        self.size = size
        self.userAddress = userAddress
        self.permissions = permissions
        self.type = type
    }

    package init(_ reader: inout WireReader) throws(ProtocolError) {
        iova = try reader.u64("iova")
        size = try reader.u64("iotlb size")
        userAddress = try reader.u64("user address")
        permissions = try reader.u8("permissions")
        type = try reader.u8("type")
        guard permissions <= 3 else {
            throw ProtocolError(reader.message, "permissions", "\(permissions) is not 0 to 3")
        }
        guard (1...4).contains(type) else {
            throw ProtocolError(reader.message, "type", "\(type) is not 1 to 4")
        }
    }

    package func write(to writer: inout WireWriter) {
        writer.append(iova)
        writer.append(size)
        writer.append(userAddress)
        writer.append(permissions)
        writer.append(type)
        writer.append([UInt8](repeating: 0, count: 6))
    }
}

/// How a device's state is to be transferred.
package struct DeviceStateTransfer: WirePayload {
    /// 0 saves, 1 loads.
    package var direction: UInt32
    /// Only 0, with all queues stopped, is defined.
    package var phase: UInt32

    package init(direction: UInt32, phase: UInt32) {
        self.direction = direction
        self.phase = phase
    }

    package init(_ reader: inout WireReader) throws(ProtocolError) {
        direction = try reader.u32("direction")
        phase = try reader.u32("phase")
        guard direction <= 1 else {
            throw ProtocolError(reader.message, "direction", "\(direction) is not 0 or 1")
        }
        guard phase == 0 else {
            throw ProtocolError(reader.message, "phase", "\(phase) is not 0")
        }
    }

    package func write(to writer: inout WireWriter) {
        writer.append(direction)
        writer.append(phase)
    }
}

/// The area to map as a queue's notification register.
package struct VringArea: WirePayload {
    package var queueAndFlags: UInt64
    package var size: UInt64
    package var offset: UInt64

    package init(queueAndFlags: UInt64, size: UInt64, offset: UInt64) {
        self.queueAndFlags = queueAndFlags
        self.size = size
        self.offset = offset
    }

    package init(_ reader: inout WireReader) throws(ProtocolError) {
        queueAndFlags = try reader.u64("u64")
        size = try reader.u64("area size")
        offset = try reader.u64("area offset")
    }

    package func write(to writer: inout WireWriter) {
        writer.append(queueAndFlags)
        writer.append(size)
        writer.append(offset)
    }
}

/// A mapping of a file into a shared memory region of the device.
package struct SharedMemoryMap: WirePayload {
    package var regionID: UInt8
    package var fdOffset: UInt64
    package var offset: UInt64
    package var size: UInt64
    package var flags: UInt64

    package init(regionID: UInt8, fdOffset: UInt64, offset: UInt64, size: UInt64, flags: UInt64) {
        self.regionID = regionID
        self.fdOffset = fdOffset
        self.offset = offset
        self.size = size
        self.flags = flags
    }

    package init(_ reader: inout WireReader) throws(ProtocolError) {
        regionID = try reader.u8("shmid")
        _ = try reader.take("padding", 7)
        fdOffset = try reader.u64("fd_offset")
        offset = try reader.u64("shm_offset")
        size = try reader.u64("len")
        flags = try reader.u64("flags")
    }

    package func write(to writer: inout WireWriter) {
        writer.append(regionID)
        writer.append([UInt8](repeating: 0, count: 7))
        writer.append(fdOffset)
        writer.append(offset)
        writer.append(size)
        writer.append(flags)
    }
}
