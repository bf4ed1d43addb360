internal import Core

// What the front end shares: guest memory, the log of changes, and what is in flight.
extension BackendSession {
    /// Queues that run go on in the new memory.
    func changeMemory(_ table: MemoryTable) {
        changeAll { memoryTable = table }
    }

    func setLog(_ description: LogDescription, _ fd: SharedFD) throws(ProtocolError) {
        let name = "SET_LOG_BASE"
        guard description.size > 0 else { throw ProtocolError(name, "log size", "it is zero") }
        let log: DirtyLog?
        do {
            let part = try MemoryMapping.part(
                of: fd.rawValue, offset: description.offset, size: description.size,
                onLoss: lossEvent)
            log = DirtyLog(
                part.mapping, offset: Int(truncatingIfNeeded: part.offset),
                size: Int(truncatingIfNeeded: description.size))
        } catch {
            throw ProtocolError(name, "log size", "the log cannot be mapped: \(error.reason)")
        }
        guard let log else { throw ProtocolError(name, "log size", "the log cannot be mapped") }
        if let memory = memoryTable.memory, !log.covers(memory) {
            throw ProtocolError(name, "log size", "\(description.size) bytes do not cover memory")
        }
        dirtyLog = log
        restartLogged()
    }

    /// What concerns the log has changed; rings that are logged go on with it.
    func restartLogged() {
        guard let features, features & VhostFeature.logAll != 0 else { return }
        for queue in queues { restart(queue) }
    }

    func makeInflight(_ wanted: InflightDescription) throws(ProtocolError) -> Reply {
        let name = "GET_INFLIGHT_FD"
        try InflightArea.check(wanted, message: name)
        do {
            let (area, fd) = try InflightArea.make(
                queueCount: wanted.queueCount, queueSize: wanted.queueSize)
            changeInflight(area)
            return Reply(payload: .inflight(area.description), fds: [fd])
        } catch {
            BackendServer.log(.warning, "no memory for what is in flight: \(error)")
            // A size of zero says that there is none.
            var none = wanted
            none.mmapSize = 0
            none.mmapOffset = 0
            return Reply(payload: .inflight(none))
        }
    }

    func setInflight(_ description: InflightDescription, _ fd: SharedFD) throws(ProtocolError) {
        changeInflight(
            try InflightArea(
                description, fd, isPacked: isPacked, onLoss: lossEvent, message: "SET_INFLIGHT_FD"))
    }

    private func changeInflight(_ area: InflightArea) {
        changeAll { inflight = area }
    }
}
