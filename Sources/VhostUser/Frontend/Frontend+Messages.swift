package import Core

// What the front end tells a back end, in the order in which it must. Each piece can be sent again
// to another back end.
extension Frontend {
    private enum Status {
        static let accepted: UInt64 = 0x0b  // ACKNOWLEDGE, DRIVER, FEATURES_OK
        static let running: UInt64 = 0x0f  // and DRIVER_OK
    }

    /// Learns what the back end is, and says who we are.
    func negotiate(_ link: FrontendLink) throws(LinkError) {
        link.offered = try link.queryNumber(.getFeatures)
        if link.hasProtocolFeatures {
            let offered = ProtocolFeatures(rawValue: try link.queryNumber(.getProtocolFeatures))
            var wanted = FrontendLink.implemented.intersection(offered)
                .subtracting(options.avoided)
            let answersBackend = wanted.isSuperset(of: [.backendRequests, .replyAck])
            if !options.notifiesInBand || !answersBackend { wanted.remove(.inBandNotifications) }
            if !options.sharesMemory || !answersBackend {
                wanted.subtract([.sharedMemory, .backendDescriptors])
            }
            if !wanted.contains(.inflight) { wanted.remove(.baseWithInflight) }
            if !wanted.contains(.baseWithInflight) { wanted.remove(.skipDrain) }
            try link.command(.setProtocolFeatures, .u64(wanted.rawValue))
            link.protocolFeatures = wanted
        }
        try link.command(.setOwner)
        link.queueCount = options.defaultQueueCount
        if link.has(.multiQueue) {
            link.queueCount = Int(clamping: min(try link.queryNumber(.getQueueNum), 256))
        }
        if movesFramesOnly(link) { link.queueCount = 2 }
        if let wanted = options.queueCount { link.queueCount = min(link.queueCount, wanted) }
        link.memorySlots = Payload.maximumRegions
        if link.has(.memorySlots) {
            link.memorySlots = Int(clamping: try link.queryNumber(.getMaxMemSlots))
        }
        if link.has(.backendRequests) { try link.openChannel() }
    }

    func readWholeConfig(_ link: FrontendLink) throws(LinkError) {
        if let own = options.ownConfig {
            config = own(link.queueCount)
            return
        }
        guard link.has(.config) else { return }
        let size: Int
        if let known = options.configSize ?? foundConfigSize {
            size = known
        } else {
            size = try findConfigSize(link)
            foundConfigSize = size
        }
        if size > 0 { config = try readConfig(link, size) }
    }

    private func readConfig(_ link: FrontendLink, _ size: Int) throws(LinkError) -> [UInt8] {
        let empty = [UInt8](repeating: 0, count: size)
        let reply = try link.query(.getConfig, .config(ConfigAccess(offset: 0, contents: empty)))
        guard case .config(let access) = reply.payload, access.contents.count == size else {
            throw .broken(
                .protocolError(
                    ProtocolError("reply to GET_CONFIG", "config size", "it is not \(size)")))
        }
        return access.contents
    }

    /// How many bytes of the configuration space the back end gives at most, in words of four.
    private func findConfigSize(_ link: FrontendLink) throws(LinkError) -> Int {
        var given = 0
        var step = ConfigAccess.maximumSize
        while step >= 4 {
            if given + step <= ConfigAccess.maximumSize {
                do {
                    _ = try readConfig(link, given + step)
                    given += step
                } catch {
                    guard case .refused = error else { throw error }
                }
            }
            step /= 2
        }
        return given
    }

    func sendFeatures(_ link: FrontendLink) throws(LinkError) {
        guard let accepted else { return }
        var features = accepted | link.offered & VhostFeature.protocolFeatures
        if logTarget != nil { features |= VhostFeature.logAll }
        try link.command(.setFeatures, .u64(features))
        if link.has(.status) { try link.command(.setStatus, .u64(Status.accepted)) }
    }

    func sendDriverOK(_ link: FrontendLink) throws(LinkError) {
        if link.has(.status) { try link.command(.setStatus, .u64(Status.running)) }
    }

    // MARK: Memory

    private static func describe(_ region: GuestRegion) -> MemoryRegionDescription {
        MemoryRegionDescription(
            guestAddress: region.start.rawValue, size: region.size,
            userAddress: region.start.rawValue &+ userAddressBase, mmapOffset: region.fileOffset)
    }

    /// Gives the back end the guest's memory, or what has changed in it.
    func sendMemory(_ link: FrontendLink, _ memory: GuestMemory) throws(LinkError) {
        if link.memory === memory { return }
        // Memory without a file cannot be shared; rings there will be refused.
        let regions = memory.regions.filter { $0.file != nil }
        if regions.count <= Payload.maximumRegions {
            try link.command(
                .setMemTable, .memoryTable(regions.map(Self.describe)),
                fds: regions.compactMap { $0.file })
        } else {
            guard link.has(.memorySlots), regions.count <= link.memorySlots else {
                throw .refused("\(regions.count) memory regions")
            }
            try sendChanges(link, to: regions)
        }
        link.memory = memory
    }

    private func sendChanges(_ link: FrontendLink, to regions: [GuestRegion]) throws(LinkError) {
        let old = (link.memory?.regions ?? []).filter { $0.file != nil }
        let wanted = regions.map(Self.describe)
        for region in old where !wanted.contains(Self.describe(region)) {
            try link.command(.remMemReg, .memoryRegion(Self.describe(region)))
        }
        let present = old.map(Self.describe)
        for region in regions where !present.contains(Self.describe(region)) {
            guard let file = region.file else { continue }
            try link.command(.addMemReg, .memoryRegion(Self.describe(region)), fds: [file])
        }
    }

    // MARK: Dirty log

    // The front end's part of a migration, which no machine of ours does yet. Other VMMs ask the
    // same of our back ends.

    /// Records in the file `fd`, one bit for each page, what the back end writes to guest memory. A
    /// back end that takes over later is asked to go on with it.
    package func startLogging(to fd: SharedFD, size: UInt64) throws(VirtioDeviceError) {
        if let link, !link.has(.logSharedMemory) || link.offered & VhostFeature.logAll == 0 {
            throw VirtioDeviceError("the back end cannot record what it writes")
        }
        let target = LogTarget(fd: fd, size: size)
        logTarget = target
        try withLink { link throws(LinkError) in
            try sendLog(link, target)
            try resendForLog(link)
        }
    }

    /// Ends the recording; the file has what was written up to here.
    package func stopLogging() throws(VirtioDeviceError) {
        logTarget = nil
        try withLink { link throws(LinkError) in try resendForLog(link) }
    }

    func sendLog(_ link: FrontendLink, _ target: LogTarget) throws(LinkError) {
        let description = LogDescription(size: target.size, offset: 0)
        _ = try link.query(.setLogBase, .log(description), fds: [target.fd])
    }

    private func resendForLog(_ link: FrontendLink) throws(LinkError) {
        guard let accepted else { return }
        let logAll = logTarget != nil ? VhostFeature.logAll : 0
        try link.command(
            .setFeatures,
            .u64(accepted | link.offered & VhostFeature.protocolFeatures | logAll))
        for (index, queue) in queues.enumerated() {
            if let queue { try link.command(.setVringAddr, address(index, queue.setup.layout)) }
        }
    }

    // MARK: In flight

    /// Gives the back end the memory for what is in flight: the one that is kept, or a new one.
    func sendInflight(_ link: FrontendLink) throws(LinkError) {
        guard link.has(.inflight), !link.hasInflight else { return }
        if inflight == nil {
            let wanted = InflightDescription(
                mmapSize: 0, mmapOffset: 0, queueCount: UInt16(clamping: queueCount),
                queueSize: options.maximumQueueSize)
            let reply = try link.query(.getInflightFD, .inflight(wanted))
            link.hasInflight = true
            guard case .inflight(let description) = reply.payload, description.mmapSize > 0,
                let fd = reply.fds.first
            else { return }
            inflight = KeptInflight(description: description, fd: fd)
        }
        guard let inflight else { return }
        try link.command(.setInflightFD, .inflight(inflight.description), fds: [inflight.fd])
        link.hasInflight = true
    }

    /// The driver has reset the queue, maybe while there was nobody to finish what was in flight.
    func forgetInflight(_ queue: Int) {
        guard let inflight else { return }
        do {
            try InflightArea.forget(
                inflight.description, inflight.fd, queue: queue, isPacked: isPacked)
        } catch {
            Self.log(.warning, "\(error)")
        }
    }
}
