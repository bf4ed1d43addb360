internal import Core

// The beginning of a session, and what the driver lets go of.
extension FSWorker {
    /// INIT: driver and device agree on a version and on abilities.
    func start() throws(FUSEError) {
        let major = try request.next(UInt32.self)
        let minor = try request.next(UInt32.self)
        guard major >= FUSELimit.majorVersion,
            major > FUSELimit.majorVersion || minor >= FUSELimit.oldestMinorVersion
        else { throw .protocolVersion }
        if major > FUSELimit.majorVersion {
            // The driver will ask again with the version that it is told.
            reply.put(FUSELimit.majorVersion)
            reply.put(FUSELimit.minorVersion)
            reply.putZeroes(56)
            return
        }
        let readAhead = try request.next(UInt32.self)
        var offered = UInt64(try request.next(UInt32.self))
        if FUSEAbilities(rawValue: offered).contains(.extended), request.rest >= 4 {
            offered |= UInt64(try request.next(UInt32.self)) << 32
        }
        try needRoom(64)
        var agreed = FUSEAbilities(rawValue: offered).intersection(wantedAbilities)
        // The mask counts only where a folder has no ACL for what is made in it.
        if !agreed.isSuperset(of: Self.accessListAbilities) {
            agreed.subtract(Self.accessListAbilities)
        }
        if !agreed.contains(.mapAlignment) { agreed.remove(.perFileMapping) }
        fileSystem.begin(agreed)
        reply.put(FUSELimit.majorVersion)
        reply.put(min(minor, FUSELimit.minorVersion))
        reply.put(readAhead)
        reply.put(UInt32(truncatingIfNeeded: agreed.rawValue))
        reply.put(UInt16.max)  // max_background: the rings are the limit
        reply.put(UInt16.max / 4 * 3)  // congestion_threshold
        reply.put(FUSELimit.transfer)
        reply.put(1 as UInt32)  // time_gran
        reply.put(FUSELimit.transferPages)
        // map_alignment: the logarithm
        reply.put(
            agreed.contains(.mapAlignment) ? UInt16(MappingTable.pageSize.trailingZeroBitCount) : 0)
        reply.put(UInt32(truncatingIfNeeded: agreed.rawValue >> 32))
        reply.putZeroes(7 * 4)
    }

    private static let accessListAbilities: FUSEAbilities = [.accessLists, .leavesMask]

    private var wantedAbilities: FUSEAbilities {
        var wanted: FUSEAbilities = [
            .asyncRead, .truncateOnOpen, .bigWrites, .asyncDirectIO, .parallelFolders,
            .maximumPages, .extended, .largeSetAttribute, .dropsSetID,
        ]
        let options = fileSystem.options
        if options.hasAccessLists { wanted.formUnion(Self.accessListAbilities) }
        if options.takesLabels { wanted.insert(.securityLabels) }
        if options.hasPosixLocks { wanted.insert(.recordLocks) }
        if options.hasFileLocks { wanted.insert(.fileLocks) }
        if options.writesBack { wanted.insert(.writebackCache) }
        if options.announcesSubmounts { wanted.insert(.submounts) }
        if fileSystem.mappings?.isUsable == true {
            wanted.formUnion([.mapAlignment, .perFileMapping])
        }
        switch options.cache {
        case .never: wanted.insert(.mapsDirectIO)
        case .metadata: wanted.formUnion([.mapsDirectIO, .readFolderPlus, .readFolderPlusAuto])
        case .auto:
            wanted.formUnion([.invalidatesData, .readFolderPlus, .readFolderPlusAuto])
        case .always:
            wanted.formUnion([.cacheSymlinks, .readFolderPlus, .readFolderPlusAuto])
        }
        return wanted
    }

    /// FORGET has no reply.
    func forget() throws(FUSEError) -> Outcome {
        task.forget(
            request.nodeID, try request.next(UInt64.self), entry: 0, in: fileSystem.nodes)
        return .nothing
    }

    /// BATCH_FORGET: straight from the chain, because there may be many.
    func forgetMany() throws(FUSEError) -> Outcome {
        let count = UInt64(try request.next(UInt32.self))
        var offset = UInt64(FUSELimit.requestHeader + 8)
        for entry in 0..<min(count, (chain.readableLength &- offset) / 16) {
            guard let id = chain.read(at: offset, as: UInt64.self),
                let lookups = chain.read(at: offset + 8, as: UInt64.self)
            else { break }
            task.forget(id, lookups, entry: UInt32(clamping: entry), in: fileSystem.nodes)
            offset += 16
        }
        return .nothing
    }
}
