internal import Core

extension BackendSession {
    /// A request's own reply.
    struct Reply {
        var payload: Payload
        var fds: [SharedFD] = []
    }

    /// Does what a request asks for.
    /// - Returns: its reply, if it is of a kind that has one.
    func perform(
        _ request: FrontendRequest, _ payload: Payload, _ fds: [SharedFD]
    ) throws(ProtocolError) -> Reply? {
        switch (request, payload) {
        case (.getFeatures, _): return Reply(payload: .u64(offeredFeatures))
        case (.setFeatures, .u64(let value)): try setFeatures(value)
        case (.getProtocolFeatures, _): return Reply(payload: .u64(offeredProtocol.rawValue))
        case (.setProtocolFeatures, .u64(let value)): try setProtocolFeatures(value)
        // Ownership means nothing here. RESET_OWNER is obsolete and best ignored.
        case (.setOwner, _), (.resetOwner, _): break
        case (.getQueueNum, _): return Reply(payload: .u64(UInt64(queues.count)))
        case (.setMemTable, .memoryTable(let regions)):
            if let postcopy, postcopy.isListening {
                return try offer(postcopy, regions, fds, message: request.rule.name)
            }
            try changeMemory(
                MemoryTable(regions, fds, onLoss: lossEvent, message: request.rule.name))
        case (.setMemTable, .u64(let code)), (.addMemReg, .u64(let code)): try takeOver(code)
        case (.getMaxMemSlots, _): return Reply(payload: .u64(UInt64(MemoryTable.maximumSlots)))
        case (.addMemReg, .memoryRegion(let region)):
            if let postcopy, postcopy.isListening {
                return try offer(postcopy, adding: region, fds, message: request.rule.name)
            }
            var table = memoryTable
            for fd in fds { try table.add(region, fd, message: request.rule.name) }
            changeMemory(table)
        case (.remMemReg, .memoryRegion(let region)):
            var table = memoryTable
            try table.remove(region, message: request.rule.name)
            changeMemory(table)
        case (.setLogBase, .log(let log)):
            for fd in fds { try setLog(log, fd) }
            return Reply(payload: .u64(0))
        case (.setLogFD, _):
            logEvent = fds.first.map { EventFD(adopting: $0) }
            restartLogged()
        case (.setVringNum, .vringState(let state)): try setSize(state)
        case (.setVringAddr, .vringAddress(let address)): try setAddress(address)
        case (.setVringBase, .vringState(let state)): try setBase(state)
        case (.getVringBase, .vringState(let state)):
            return Reply(payload: .vringState(try takeBase(state, request)))
        case (.getVringBaseSkipDrain, .vringState(let state)):
            return Reply(payload: .vringState(try takeBase(state, request)))
        case (.setVringKick, .u64(let value)): try setKick(value, fds)
        case (.setVringCall, .u64(let value)): try setCall(value, fds)
        case (.setVringErr, .u64(let value)):
            let (queue, fd) = try queueAndEvent(value, fds, message: request.rule.name)
            queue.setError(fd)
            restart(queue)
        case (.setVringEnable, .vringState(let state)): try enable(state)
        case (.vringKick, .vringState(let state)): try takeKick(state)
        case (.sendRARP, .u64(let value)):
            device.network?.announce((0..<6).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) })
        case (.netSetMTU, .u64(let value)): try setMTU(value)
        case (.setBackendReqFD, _): for fd in fds { try setChannel(fd) }
        case (.getConfig, .config(let access)): return readConfig(access)
        case (.setConfig, .config(let access)): try writeConfig(access)
        case (.getInflightFD, .inflight(let description)): return try makeInflight(description)
        case (.iotlbMsg, .iotlb(let message)):
            try changeTranslation(message)
            return Reply(payload: .u64(0))
        case (.setInflightFD, .inflight(let description)):
            for fd in fds { try setInflight(description, fd) }
        case (.resetDevice, _): resetDevice()
        case (.setStatus, .u64(let value)): try setStatus(value)
        case (.getStatus, _): return Reply(payload: .u64(status))
        case (.setDeviceStateFD, .deviceState(let wanted)):
            for fd in fds { return beginTransfer(wanted, fd) }
        case (.checkDeviceState, _): return checkTransfer()
        case (.postcopyAdvise, _): return try advisePostcopy()
        case (.postcopyListen, _): try listenPostcopy()
        case (.postcopyEnd, _):
            endPostcopy()
            return Reply(payload: .u64(0))
        case (.getShmemConfig, _):
            return Reply(payload: .sharedMemoryConfig(Array(device.sharedRegions.prefix(256))))
        case (.gpuSetSocket, _):
            throw ProtocolError(request.rule.name, "request", "the device is not a GPU")
        default:
            // Its feature is never on offer, so `checkLegal` has refused it already.
            throw ProtocolError(request.rule.name, "request", "it is not implemented")
        }
        return nil
    }

    // MARK: Features

    private func setFeatures(_ value: UInt64) throws(ProtocolError) {
        guard value & ~offeredFeatures == 0 else {
            throw ProtocolError(
                "SET_FEATURES", "u64",
                "0x\(String(value & ~offeredFeatures, radix: 16)) were not offered")
        }
        guard value != features else { return }
        let transport = VhostFeature.all | VirtioFeature.accessPlatform
        let deviceBits = value & ~transport
        let changesDevice = features.map { $0 & ~transport != deviceBits } ?? true
        for queue in queues { stopDevice(queue) }
        if changesDevice {
            do {
                try device.setFeatures(deviceBits)
            } catch {
                throw ProtocolError("SET_FEATURES", "u64", "\(error)")
            }
        }
        features = value
        iotlb = value & VirtioFeature.accessPlatform != 0 ? iotlb ?? makeIOTLB() : nil
        if value & VhostFeature.protocolFeatures == 0 {
            for queue in queues { queue.isEnabled = true }
        }
        for queue in queues { update(queue) }
    }

    private func setProtocolFeatures(_ value: UInt64) throws(ProtocolError) {
        let wanted = ProtocolFeatures(rawValue: value)
        guard offeredProtocol.isSuperset(of: wanted) else {
            let unknown = wanted.subtracting(offeredProtocol).rawValue
            throw ProtocolError(
                "SET_PROTOCOL_FEATURES", "u64",
                "0x\(String(unknown, radix: 16)) were not offered")
        }
        if wanted.contains(.inBandNotifications) {
            guard wanted.isSuperset(of: [.backendRequests, .replyAck]) else {
                throw ProtocolError(
                    "SET_PROTOCOL_FEATURES", "u64",
                    "INBAND_NOTIFICATIONS needs BACKEND_REQ and REPLY_ACK")
            }
            if !acknowledgedProtocol.contains(.inBandNotifications) { try notifyInBand() }
        }
        try checkSuspension(wanted)
        acknowledgedProtocol = wanted
    }

    private func setMTU(_ value: UInt64) throws(ProtocolError) {
        do {
            guard let size = UInt16(exactly: value) else {
                throw VirtioDeviceError("\(value) is more than 65535")
            }
            try device.network?.setMTU(size)
        } catch {
            throw ProtocolError("NET_SET_MTU", "u64", "\(error)", isHarmless: true)
        }
    }

    /// Requests that a stopped ring leaves unfinished must be noted somewhere.
    private func checkSuspension(_ wanted: ProtocolFeatures) throws(ProtocolError) {
        for (feature, needs, text) in [
            (ProtocolFeatures.baseWithInflight, ProtocolFeatures.inflight, "INFLIGHT_SHMFD"),
            (.skipDrain, .baseWithInflight, "GET_VRING_BASE_INFLIGHT"),
        ] where wanted.contains(feature) && !wanted.contains(needs) {
            throw ProtocolError(
                "SET_PROTOCOL_FEATURES", "u64",
                "0x\(String(feature.rawValue, radix: 16)) needs \(text)")
        }
    }

    // MARK: Configuration space

    private func readConfig(_ access: ConfigAccess) -> Reply {
        let count = access.contents.count
        let offset = Int(exactly: access.offset) ?? Int.max
        var bytes = device.readConfig(offset: offset, count: count)
        // Nothing at all is an error, which is said with an empty payload. A front end may know a
        // longer configuration space than the device has; the rest is zero.
        if bytes.isEmpty && count > 0 || bytes.count > count { return Reply(payload: .none) }
        bytes += [UInt8](repeating: 0, count: count - bytes.count)
        return Reply(
            payload: .config(
                ConfigAccess(offset: access.offset, flags: access.flags, contents: bytes)))
    }

    private func writeConfig(_ access: ConfigAccess) throws(ProtocolError) {
        guard access.flags <= ConfigAccess.migrationFlag else {
            throw ProtocolError("SET_CONFIG", "config flags", "\(access.flags) is not 0 or 1")
        }
        let offset = Int(exactly: access.offset) ?? Int.max
        device.writeConfig(offset: offset, access.contents)
        // A migration brings all fields; a driver may only write to those that change by it.
        guard access.flags != ConfigAccess.migrationFlag, !access.contents.isEmpty,
            device.readConfig(offset: offset, count: access.contents.count) != access.contents
        else { return }
        // Front ends pass on what their guest writes, and its mistake must not cost it the device.
        throw ProtocolError(
            "SET_CONFIG", "config contents",
            "\(access.contents.count) bytes at offset \(access.offset) are not all writable",
            isHarmless: true)
    }

    // MARK: Status and reset

    private func setStatus(_ value: UInt64) throws(ProtocolError) {
        guard value <= 0xff else {
            throw ProtocolError("SET_STATUS", "u64", "0x\(String(value, radix: 16)) has no meaning")
        }
        status = value
        guard value == 0 else { return }
        // The driver has gone. Front ends send this when they stop a device as well, so what the
        // driver has configured is kept for them.
        for queue in queues {
            forgetInflight(queue)
            queue.stop()
        }
        forgetTranslations()
    }

    private func resetDevice() {
        for queue in queues {
            forgetInflight(queue)
            queue.stop()
            queue.isEnabled = false
            queue.base = nil
        }
        device.reset()
        forgetTranslations()
        status = 0
    }

    /// Stops the device; nothing is in flight then.
    func forgetInflight(_ queue: BackendQueue) {
        guard queue.isRunning else { return }
        stopDevice(queue)
        inflight?.region(queue: queue.index, isPacked: isPacked)?.clear()
    }
}
