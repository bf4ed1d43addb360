internal import Core
internal import Glibc

// What the front end shows, where it is not what the table says, or does not become so at once.
//
// A front end that is gone, or gives no answer, may have done what it was asked or not. What the driver
// has mapped is still mapped for it, so the table stays as it is, and the next front end is shown all
// of it.
extension MappingTable {
    /// Maps everything again, if there is another front end.
    /// - Parameter stop: ends it before all is done; the next queue that goes on does it then.
    func restore(_ open: Open, until stop: StopSignal? = nil) {
        state.withLock { state in
            guard state.mustRestore, let channel = state.channel else { return }
            for mapping in state.mappings {
                if stop?.isOn == true { return }
                switch Self.mapAgain(mapping, open(mapping.node, mapping.isWritable), channel) {
                case .mapped: continue
                case .gone: return
                case .lost:
                    fsLog.guest("a part of a file that the guest has mapped cannot be mapped again")
                    cut(mapping.start, mapping.end, &state)
                }
            }
            state.mustRestore = false
        }
    }

    private enum Outcome {
        case mapped
        /// The file is not there any more, or the front end does not want it; nothing is shown.
        case lost
        case gone
    }

    private static func mapAgain(
        _ mapping: Mapping, _ fd: SharedFD?, _ channel: any SharedMemoryChannel
    ) -> Outcome {
        do throws(SharedMemoryError) {
            if let fd {
                if try isDone({ () throws(SharedMemoryError) in
                    try channel.map(mapping.piece, of: fd)
                }) {
                    return .mapped
                }
                // The place may have to be free first.
                try channel.unmap(mapping.piece)
                try channel.map(mapping.piece, of: fd)
                return .mapped
            }
            try channel.unmap(mapping.piece)
            return .lost
        } catch {
            return error == .gone ? .gone : .lost
        }
    }

    /// Asks the front end.
    /// - Returns: whether it does it.
    /// - Throws: it is gone.
    static func isDone(
        _ ask: () throws(SharedMemoryError) -> Void
    ) throws(SharedMemoryError) -> Bool {
        do throws(SharedMemoryError) {
            try ask()
            return true
        } catch {
            if error == .gone { throw error }
            return false
        }
    }

    /// Asks the front end for the driver. If it is gone, all is to be mapped again.
    func asking(
        _ state: inout State, _ body: (inout State) throws(SharedMemoryError) -> Void
    ) throws(FUSEError) {
        do throws(SharedMemoryError) {
            try body(&state)
        } catch {
            if error == .gone { state.mustRestore = true }
            throw FUSEError(EIO)
        }
    }

    /// Has the front end take away what is mapped in a range, one by one, and map again what was not
    /// in it.
    /// - Throws: it is gone, and the table is as before.
    func clear(
        _ start: UInt64, _ end: UInt64, _ channel: any SharedMemoryChannel, _ state: inout State,
        _ open: Open
    ) throws(SharedMemoryError) {
        var lost: [Mapping] = []
        for mapping in state.mappings[Self.overlapping(start, end, state)] {
            _ = try Self.isDone { () throws(SharedMemoryError) in
                try channel.unmap(mapping.piece)
            }
            for rest in Self.rests(mapping, start, end) {
                let fd = open(rest.node, rest.isWritable)
                let isThere = try Self.isDone { () throws(SharedMemoryError) in
                    guard let fd else { throw .refused }
                    try channel.map(rest.piece, of: fd)
                }
                if !isThere { lost.append(rest) }
            }
        }
        cut(start, end, &state)
        for rest in lost { cut(rest.start, rest.end, &state) }
    }
}
