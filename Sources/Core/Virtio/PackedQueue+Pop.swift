// How requests are taken from the ring.
extension PackedQueue {
    @inline(__always)
    func isAvailable(_ flags: UInt16) -> Bool {
        Self.isAvailable(flags, wrap: available.wrap)
    }

    @inline(__always)
    static func isAvailable(_ flags: UInt16, wrap: UInt16) -> Bool {
        // AVAIL is bit 7, USED is bit 15, and `wrap` is 0x8000 or 0.
        let isAvail = (flags << 8) & 0x8000 == wrap
        return isAvail && flags & DescriptorFlag.used != wrap
    }

    mutating func pop(into chain: inout ChainStorage) throws(QueueError) -> Bool {
        if let inflight, let pending = inflight.removeFirstPending() {
            try resume(pending, &chain)
            return true
        }
        let offset = Int(available.index) * Descriptor.size
        // Acquire: what the driver wrote before the flags is visible with them. The length and the
        // id are in the same word.
        let word = ring.loadAcquiring64(offset + 8)
        let head = Descriptor(address: ring.loadRelaxed64(offset), word: word)
        guard isAvailable(head.fourth) else { return false }
        chain.reset()
        chain.id = head.third
        if inflight != nil { noted.removeAll(keepingCapacity: true) }
        if head.fourth & DescriptorFlag.indirect != 0 {
            if inflight != nil { noted.append(head) }
            chain.descriptorCount = 1
            try walkIndirect(head, &chain)
        } else {
            try walk(head, &chain)
        }
        let count = chain.descriptorCount
        guard count <= size &- outstanding else { throw .tooManyOutstanding(size: size) }
        try finish(&chain)
        if let inflight { chain.inflightEntry = inflight.taken(noted) }
        outstanding &+= count
        available.advance(count, size: size)
        return true
    }

    /// Takes up to `limit` requests, each to a chain of its own. One that is wrong ends the batch before
    /// it, unless it is the first. Nothing of it has been used then, and all of it is read anew.
    mutating func pop(
        into chains: UnsafePointer<Unmanaged<DescriptorChain>>, limit: Int
    ) throws(QueueError) -> Int {
        let isPending = inflight.map { $0.hasPending } ?? false
        var count = 0
        while count < (isPending ? min(limit, 1) : limit) {
            let storage = unsafe chains[count]._withUnsafeGuaranteedRef { unsafe $0.storage }
            do throws(QueueError) {
                guard try unsafe pop(into: &storage.pointee) else { return count }
            } catch {
                if count == 0 { throw error }
                return count
            }
            unsafe storage.pointee.prefetch()
            count += 1
        }
        return count
    }

    @inline(__always)
    private func finish(_ chain: inout ChainStorage) throws(QueueError) {
        let total = chain.readableLength &+ chain.writableLength
        guard total <= 1 << 32 else { throw .chainTooLarge(head: chain.id, byteCount: total) }
        chain.finish()
    }

    /// Takes over a request from the copies of its descriptors. It has its place between `used` and
    /// `available` already.
    private mutating func resume(
        _ pending: PackedInflight.Pending, _ chain: inout ChainStorage
    ) throws(QueueError) {
        chain.reset()
        chain.inflightEntry = pending.entry
        chain.descriptorCount = UInt16(truncatingIfNeeded: pending.descriptors.count)
        for descriptor in pending.descriptors {
            let flags = descriptor.fourth
            chain.id = descriptor.third
            if flags & DescriptorFlag.indirect != 0 {
                guard chain.descriptorCount == 1 else { throw .indirectInChain(head: chain.id) }
                try walkIndirect(descriptor, &chain)
            } else {
                try chain.append(
                    descriptor, isWritable: flags & DescriptorFlag.write != 0, regions: &regions,
                    limit: pieceLimit)
            }
        }
        try finish(&chain)
    }

    /// A list is in ring order; the id of its last descriptor counts.
    @inline(__always)
    private mutating func walk(_ head: Descriptor, _ chain: inout ChainStorage) throws(QueueError) {
        var descriptor = head
        var place = available
        var count: UInt16 = 1
        while true {
            let flags = descriptor.fourth
            guard flags & DescriptorFlag.indirect == 0 else {
                throw .indirectInChain(head: chain.id)
            }
            if inflight != nil { noted.append(descriptor) }
            try chain.append(
                descriptor, isWritable: flags & DescriptorFlag.write != 0, regions: &regions,
                limit: pieceLimit)
            if flags & DescriptorFlag.next == 0 { break }
            guard count < size else { throw .loop(head: chain.id) }
            count += 1
            place.advance(1, size: size)
            let offset = Int(place.index) * Descriptor.size
            descriptor = Descriptor(
                address: ring.loadRelaxed64(offset), word: ring.loadRelaxed64(offset + 8))
        }
        chain.id = descriptor.third
        chain.descriptorCount = count
    }

    /// All descriptors of the table count, in its order; of their flags only WRITE does.
    private mutating func walkIndirect(
        _ reference: Descriptor, _ chain: inout ChainStorage
    ) throws(QueueError) {
        guard features & VirtioFeature.indirectDescriptors != 0 else {
            throw .indirectNotNegotiated(head: chain.id)
        }
        guard reference.fourth & DescriptorFlag.next == 0 else {
            throw .indirectInChain(head: chain.id)
        }
        let table = try IndirectTable(reference, regions: &regions)
        let limit = max(Int(size), ChainStorage.descriptorLimit)
        guard table.count <= limit else { throw .chainTooLong(head: chain.id, limit: limit) }
        for index in 0..<table.count {
            let descriptor = try table.load(index, regions: regions)
            let flags = descriptor.fourth
            guard flags & DescriptorFlag.indirect == 0 else {
                throw .indirectNested(head: chain.id)
            }
            try chain.append(
                descriptor, isWritable: flags & DescriptorFlag.write != 0, regions: &regions,
                limit: pieceLimit)
        }
    }
}
