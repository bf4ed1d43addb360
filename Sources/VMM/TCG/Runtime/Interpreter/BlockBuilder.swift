internal import Glibc
internal import TCGDecoder

extension CPU {
    /// The most instructions in a block.
    private static let maximumCount = 64

    /// Room for any block.
    static var largestBlock: Int {
        Block.headerSize + (maximumCount + 1) * MemoryLayout<Operation>.stride
            + CodeCache.scratchSize
    }

    /// Decodes the block at `linear`, which is RIP, and enters it into the cache, which has room.
    func buildBlock(
        _ cache: CodeCache, _ page: FetchPage, _ linear: UInt64, key: UInt32
    ) throws(Fault) -> Block {
        var source = try fetch(cache, page, linear)
        let block = cache.allocate(0)
        unsafe block.header.initialize(
            to: BlockHeader(
                linear: linear, physical: page.physical | (linear & 0xFFF), key: key,
                generation: codeGeneration, rip: rip, nextRIP: 0, takenRIP: 0))
        let codeLimit = is64Bit ? UInt64.max : UInt64(segment(SegmentRegister.cs).limit)
        unsafe block.header.pointee.codeLimit = UInt32(truncatingIfNeeded: codeLimit)
        var decoder = BlockDecoder(
            decoder: Decoder(mode: CodeMode(rawValue: UInt8(key & ModeKey.codeSize)) ?? .bits64),
            lowering: Lowering(
                key: key, isOnlyCPU: unsafe state.pointee.isOnlyCPU, model: owner.model,
                codeLimit: codeLimit),
            rip: rip,
            maximum: key & ModeKey.singleStep != 0 || source.isUnsettled ? 1 : Self.maximumCount)
        if unsafe decoder.decode(cache.scratch, source.inPage, into: block) == .needsMore {
            source = try fetchAcross(cache, source, linear)
            decoder.maximum = 1
            _ = unsafe decoder.decode(cache.scratch, source.count, into: block)
        }
        guard unsafe block.header.pointee.operationCount > 0 else {
            throw .generalProtection(0)
        }
        finish(cache, block, source)
        return block
    }

    /// What has been read for decoding.
    struct CodeSource {
        /// Bytes in the scratch buffer; those of the first page.
        var count: Int
        var inPage: Int
        var secondPage = UInt64.max
        /// The bytes are not in memory.
        var isDevice = false
        /// They may change without notice.
        var isUnsettled = false
    }

    /// Copies the bytes up to the page's or the code segment's end to the scratch buffer.
    private func fetch(
        _ cache: CodeCache, _ page: FetchPage, _ linear: UInt64
    ) throws(Fault) -> CodeSource {
        let offset = Int(linear & 0xFFF)
        var count = min(4096 - offset, CodeCache.scratchSize - 32)
        if !is64Bit {
            let limit = UInt64(segment(SegmentRegister.cs).limit)
            guard rip <= limit else { throw .generalProtection(0) }
            count = min(count, Int(limit - rip) + 1)
        }
        guard let host = unsafe page.host else {
            count = min(count, 15)
            for index in 0..<count {
                // The rights were checked by the fetch; data rights are the nearest thing here.
                unsafe cache.scratch[index] = try load(
                    linear &+ UInt64(index), as: UInt8.self)
            }
            return CodeSource(count: count, inPage: count, isDevice: true)
        }
        markCode(physical: page.physical)
        // Asked before the bytes are read.
        let isUnsettled = isUnsettled(physical: page.physical)
        // SAFETY: `host` is a whole page.
        unsafe memcpy(cache.scratch, host + offset, count)
        return CodeSource(count: count, inPage: count, isUnsettled: isUnsettled)
    }

    /// Adds bytes of the following page, for an instruction that crosses the border.
    private func fetchAcross(
        _ cache: CodeCache, _ source: CodeSource, _ linear: UInt64
    ) throws(Fault) -> CodeSource {
        var source = source
        var wanted = 15 - source.inPage
        if !is64Bit {
            let limit = UInt64(segment(SegmentRegister.cs).limit)
            wanted = min(wanted, Int(clamping: limit &+ 1 &- rip) - source.inPage)
        }
        guard wanted > 0, (linear &+ UInt64(source.inPage)) & 0xFFF == 0 else {
            throw .generalProtection(0)
        }
        // 32-bit code goes on at 0 after 4 GiB, in long mode as well.
        let next = (linear &+ UInt64(source.inPage)) & (is64Bit ? UInt64.max : 0xFFFF_FFFF)
        let page = try translateFetch(next)
        source.secondPage = page.physical
        source.count = source.inPage + wanted
        if let host = unsafe page.host {
            markCode(physical: page.physical)
            if isUnsettled(physical: page.physical) { source.isUnsettled = true }
            unsafe memcpy(cache.scratch + source.inPage, host, wanted)
        } else {
            source.isDevice = true
            for index in 0..<wanted {
                unsafe cache.scratch[source.inPage + index] = try load(
                    next &+ UInt64(index), as: UInt8.self)
            }
        }
        return source
    }

    /// Stores the bytes behind the operations and puts the block into the tables.
    private func finish(_ cache: CodeCache, _ block: Block, _ source: CodeSource) {
        let header = unsafe block.header
        let count = unsafe Int(header.pointee.byteCount)
        counters.decoded &+= 1
        counters.decodedBytes &+= UInt64(count)
        // SAFETY: the caller made sure of the room.
        unsafe memcpy(block.bytes, cache.scratch, count)
        if count > source.inPage { unsafe header.pointee.secondPage = source.secondPage }
        if source.isDevice || source.isUnsettled {
            // Used once: the room is given away again by the next block.
            unsafe header.pointee.isTransient = true
            return
        }
        if cache.translator != nil, block.key & ModeKey.codeSize == 8,
            block.key & ModeKey.singleStep == 0
        {
            unsafe header.pointee.heat = fields.translationThreshold
        }
        block.noteStart()
        block.prepareMoves()
        _ = cache.allocate(block.size)
        cache.insert(block)
    }
}

/// Decodes instructions into a block's operations.
struct BlockDecoder {
    let decoder: Decoder
    let lowering: Lowering
    let rip: UInt64
    var maximum: Int

    enum Outcome {
        case done
        /// The first instruction is longer than the bytes.
        case needsMore
    }

    // SAFETY: the block has room for `maximum + 1` operations, `bytes` has `available` bytes.
    func decode(
        _ bytes: UnsafeMutablePointer<UInt8>, _ available: Int, into block: Block
    ) -> Outcome {
        var position = 0
        var count = 0
        var op = unsafe block.operations.pointer
        var flow = LoweredFlow.continues
        while count < maximum, case .continues = flow {
            let left = unsafe UnsafeBufferPointer(
                start: bytes + position, count: min(15, available - position))
            guard let next = unsafe operation(left.span, at: position) else {
                if count == 0 { return .needsMore }
                // The next block begins with it.
                break
            }
            var operation = next.operation
            flow = next.flow
            position += Int(operation.length)
            operation.number = UInt8(truncatingIfNeeded: count)
            operation.nextOffset = UInt16(truncatingIfNeeded: position)
            unsafe op.initialize(to: operation)
            unsafe op += 1
            count += 1
        }
        unsafe finish(block, op, count: count, position: position, flow: flow)
        return .done
    }

    /// The operation for the instruction at the start of `bytes`; `nil` if there is more of it.
    private func operation(
        _ bytes: Span<UInt8>, at position: Int
    ) -> (operation: Operation, flow: LoweredFlow)? {
        var operation: Operation
        switch decoder.decode(bytes) {
        case .instruction(let instruction):
            let end = UInt64(position + Int(instruction.length))
            return lowering.lower(instruction, nextRIP: wrapped(rip &+ end))
        case .truncated where bytes.count < 15: return nil
        case .tooLong: operation = Operation(.tooLong)
        case .undefined, .truncated: operation = Operation(.undefined)
        }
        // A fault whatever follows; the bytes looked at belong to the block.
        operation.length = UInt8(bytes.count)
        return (operation, .ends)
    }

    private func wrapped(_ rip: UInt64) -> UInt64 { lowering.is64 ? rip : rip & 0xFFFF_FFFF }

    /// A block that ends without a branch continues at the next instruction.
    // SAFETY: `end` is behind the last of the block's operations, which leave room for one more.
    private func finish(
        _ block: Block, _ end: UnsafeMutablePointer<Operation>, count: Int, position: Int,
        flow: LoweredFlow
    ) {
        var total = count
        var target: UInt64 = 0
        switch flow {
        case .continues:
            var last = Operation(.fallThrough)
            last.number = UInt8(truncatingIfNeeded: count)
            last.nextOffset = UInt16(truncatingIfNeeded: position)
            unsafe end.initialize(to: last)
            total += 1
        case .ends: break
        case .branches(let rip): target = rip
        }
        let header = unsafe block.header
        unsafe header.pointee.count = UInt16(truncatingIfNeeded: count)
        unsafe header.pointee.operationCount = UInt16(truncatingIfNeeded: total)
        unsafe header.pointee.byteCount = UInt16(truncatingIfNeeded: position)
        unsafe header.pointee.nextRIP = wrapped(rip &+ UInt64(position))
        unsafe header.pointee.takenRIP = target
    }
}
