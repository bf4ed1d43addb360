internal import Core
internal import Glibc

// What comes from the guest.
extension VsockConnection {
    /// Notes what every packet says of the guest's buffer.
    func update(_ header: VsockHeader) {
        guestBufferSize = header.bufferSize
        guestForwarded = header.forwarded
    }

    /// The guest agrees to what the host asked for.
    func establish() {
        guard !isEstablished else { return fail() }
        isEstablished = true
        let answer = Array("OK \(host.port)\n".utf8)
        // SAFETY: the array lives for the call. A new socket has room for a line.
        guard unsafe write(fd.rawValue, answer, answer.count) == answer.count else {
            return fail()
        }
    }

    /// Takes the bytes behind a packet's header.
    func take(_ chain: DescriptorChain, count: UInt32) {
        guard isEstablished, !guestShutdown.contains(.send), count <= Self.bufferSize,
            UInt32(backlog.count) <= Self.bufferSize - count,
            chain.readableLength >= UInt64(VsockHeader.size) + UInt64(count)
        else { return fail() }
        received &+= count
        if isDeaf {
            forwarded &+= count
        } else {
            let direct = backlog.isEmpty ? send(chain, count) : 0
            if !isDeaf, direct < Int(count) {
                let rest = chain.readBytes(
                    at: UInt64(VsockHeader.size + direct), count: Int(count) - direct)
                backlog.append(rest[...])
            }
            forwarded &+= isDeaf ? count : UInt32(direct)
        }
        noteCredit()
    }

    /// Gives the socket what is behind the header.
    /// - Returns: how much it took.
    private func send(_ chain: DescriptorChain, _ count: UInt32) -> Int {
        // Drivers give exactly what they announce; others wait for a copy.
        guard chain.readableLength == UInt64(VsockHeader.size) + UInt64(count) else { return 0 }
        chain.trimReadable(first: UInt64(VsockHeader.size))
        let pieces = unsafe chain.readable
        // SAFETY: the pieces are mapped as long as the queue runs.
        return accepted(
            unsafe writev(fd.rawValue, pieces.baseAddress, Int32(min(pieces.count, 1024))))
    }

    /// - Returns: the bytes that a write has brought away.
    func accepted(_ result: Int) -> Int {
        if result >= 0 { return result }
        if errno != EAGAIN, errno != EINTR { becomeDeaf() }
        return 0
    }

    func becomeDeaf() {
        isDeaf = true
        forwarded &+= UInt32(backlog.count)
        backlog.removeAll()
    }

    /// The guest does some things no more.
    func shutDown(_ flags: VsockShutdown) {
        guestShutdown.formUnion(flags.intersection(.both))
        if guestShutdown.contains(.receive) {
            _ = shutdown(fd.rawValue, Int32(SHUT_RD))
            available = 0
        }
        endWriting()
    }

    func endWriting() {
        if guestShutdown.contains(.send), backlog.isEmpty {
            _ = shutdown(fd.rawValue, Int32(SHUT_WR))
        }
    }

    func requestCredit() { debts.insert(.credit) }

    /// A guest that believes that half of the buffer is full is told otherwise.
    func noteCredit() {
        if received &- told >= Self.bufferSize / 2, forwarded != told { debts.insert(.credit) }
    }
}
