internal import CLinux

/// Does operations with ordinary, blocking system calls.
enum SystemCalls {
    /// Does an operation.
    /// - Parameter mayWait: whether a read may wait for the device.
    /// - Returns: the number of bytes, or -errno.
    static func perform(
        _ operation: IOOperation, on image: RawImage, mayWait: Bool = true
    ) -> Int64 {
        let fd = operation.isCached ? image.cachedFD : image.fd
        // Offsets and lengths lie inside the image, whose size fits in 63 bits.
        let offset = Int64(truncatingIfNeeded: operation.offset)
        let length = Int64(truncatingIfNeeded: operation.length)
        switch operation.kind {
        case .read, .write, .stableWrite:
            guard let parts = unsafe operation.parts else { return 0 }
            let readFlags = mayWait ? 0 : CLINUX_RWF_NOWAIT
            let writeFlags = operation.kind == .stableWrite ? CLINUX_RWF_DSYNC : 0
            // SAFETY: the parts are mapped buffers of the slot, which waits for this call.
            return operation.kind == .read
                ? Int64(unsafe clinux_preadv(fd, parts, operation.partCount, offset, readFlags))
                : Int64(unsafe clinux_pwritev(fd, parts, operation.partCount, offset, writeFlags))
        case .sync: return Int64(clinux_fdatasync(fd))
        case .allocate: return Int64(clinux_fallocate(fd, operation.mode, offset, length))
        case .discard:
            return Int64(clinux_block_discard(fd, operation.offset, operation.length))
        }
    }
}

/// Completions that are already known, in order; at most one for each slot.
// SAFETY: the buffers have `capacity` entries, and indices are taken modulo that.
@safe struct CompletionFIFO: ~Copyable {
    private let slots: UnsafeMutablePointer<UInt32>
    private let results: UnsafeMutablePointer<Int64>
    private let capacity: Int
    private var head = 0
    private(set) var count = 0

    init(capacity: Int) {
        self.capacity = max(capacity, 1)
        unsafe slots = .allocate(capacity: self.capacity)
        unsafe results = .allocate(capacity: self.capacity)
    }

    deinit {
        unsafe slots.deallocate()
        unsafe results.deallocate()
    }

    mutating func append(slot: UInt32, result: Int64) {
        precondition(count < capacity, "a slot completed twice")
        var index = head &+ count
        if index >= capacity { index &-= capacity }
        unsafe slots[index] = slot
        unsafe results[index] = result
        count &+= 1
    }

    mutating func next() -> IOEvent? {
        if count == 0 { return nil }
        let event = unsafe IOEvent.completion(slot: slots[head], result: results[head])
        head &+= 1
        if head == capacity { head = 0 }
        count &-= 1
        return event
    }
}
