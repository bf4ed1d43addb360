internal import Core

/// A migration by "postcopy": the guest runs here already while its memory is still on its way, and
/// the front end brings the pages that the device waits for (vhost-user specification,
/// VHOST_USER_POSTCOPY_ADVISE and the messages after it).
final class Postcopy {
    let faults: RemoteFaults
    /// Memory that is shared from now on is still on its way.
    var isListening = false
    /// What the front end shares. It is used when the front end has said that it hears of faults
    /// there.
    var pending: MemoryTable?

    init(_ faults: RemoteFaults) { self.faults = faults }

    /// The message after those that share memory looks like them, but for its contents: a number,
    /// which is zero.
    static let acknowledgement = MessageRule("SET_MEM_TABLE", .u64)

    func isAcknowledgement(_ request: FrontendRequest, _ message: Message) -> Bool {
        pending != nil && (request == .setMemTable || request == .addMemReg)
            && message.payload.count == 8
    }
}

extension BackendSession {
    func advisePostcopy() throws(ProtocolError) -> Reply {
        guard let device = options.faultDevice else {
            throw ProtocolError("POSTCOPY_ADVISE", "request", "it is not implemented")
        }
        do {
            let faults = try RemoteFaults(device: device, owner: frontendSocket)
            postcopy = Postcopy(faults)
            return Reply(payload: .none, fds: [faults.fd])
        } catch {
            throw ProtocolError("POSTCOPY_ADVISE", "request", "\(error)")
        }
    }

    func listenPostcopy() throws(ProtocolError) {
        guard let postcopy, memoryTable.memory == nil else {
            throw ProtocolError(
                "POSTCOPY_LISTEN", "request",
                postcopy == nil ? "it was not advised" : "memory has been shared already")
        }
        postcopy.isListening = true
    }

    /// Memory that is still on its way.
    /// - Returns: where it is in this process, for the front end to know where faults are.
    func offer(
        _ postcopy: Postcopy, _ regions: [MemoryRegionDescription], _ fds: [SharedFD],
        message: String
    ) throws(ProtocolError) -> Reply {
        let table = try MemoryTable(regions, fds, onLoss: lossEvent, message: message)
        postcopy.pending = table
        return Reply(payload: .memoryTable(table.ownAddresses))
    }

    func offer(
        _ postcopy: Postcopy, adding region: MemoryRegionDescription, _ fds: [SharedFD],
        message: String
    ) throws(ProtocolError) -> Reply? {
        var table = postcopy.pending ?? memoryTable
        for fd in fds { try table.add(region, fd, message: message) }
        postcopy.pending = table
        return table.ownAddress(of: region).map { Reply(payload: .memoryRegion($0)) }
    }

    /// The front end deals with faults from now on.
    func takeOver(_ code: UInt64) throws(ProtocolError) {
        guard let postcopy, let table = postcopy.pending else { return }
        postcopy.pending = nil
        guard code == 0 else {
            throw ProtocolError("SET_MEM_TABLE", "u64", "the front end failed with code \(code)")
        }
        do {
            for mapping in table.mappings(besides: memoryTable) {
                try postcopy.faults.add(mapping)
            }
        } catch {
            endPostcopy()
            throw ProtocolError("SET_MEM_TABLE", "u64", "\(error)")
        }
        changeMemory(table)
    }

    func endPostcopy() {
        postcopy?.faults.stop()
        postcopy = nil
    }
}
