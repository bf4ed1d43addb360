internal import Glibc
internal import TCGDecoder

extension CPU {
    /// The most instructions in a block.
    private static let maximumCount = 64

    /// Decodes the block at `linear`, which is RIP, and enters it into the cache.
    func buildBlock(
        _ cache: CodeCache, _ page: FetchPage, _ linear: UInt64, key: UInt32
    ) throws(Fault) -> Block {
        let largest =
            Block.headerSize + (Self.maximumCount + 1) * MemoryLayout<Operation>.stride
            + CodeCache.scratchSize
        if cache.free < largest { invalidateAllCode() }
        var source = try fetch(cache, page, linear)
        let block = cache.allocate(0)
        unsafe block.header.initialize(
            to: BlockHeader(
                rip: rip, nextRIP: 0, takenRIP: 0,
                generation: state.pointee.codeGeneration, key: key, linear: linear,
                physical: page.physical | (linear & 0xFFF)))
        let codeLimit = is64Bit ? UInt64.max : UInt64(segment(SegmentRegister.cs).limit)
        unsafe block.header.pointee.codeLimit = UInt32(truncatingIfNeeded: codeLimit)
        var decoder = BlockDecoder(
            decoder: Decoder(mode: CodeMode(rawValue: UInt8(key & ModeKey.codeSize)) ?? .bits64),
            lowering: Lowering(
                key: key, isOnlyCPU: unsafe state.pointee.isOnlyCPU, codeLimit: codeLimit),
            rip: rip, maximum: key & ModeKey.singleStep != 0 ? 1 : Self.maximumCount)
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
        // SAFETY: `host` is a whole page.
        unsafe memcpy(cache.scratch, host + offset, count)
        return CodeSource(count: count, inPage: count)
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
        let page = try translateFetch(linear &+ UInt64(source.inPage))
        source.secondPage = page.physical
        source.count = source.inPage + wanted
        if let host = unsafe page.host {
            unsafe memcpy(cache.scratch + source.inPage, host, wanted)
        } else {
            source.isDevice = true
            for index in source.inPage..<source.count {
                unsafe cache.scratch[index] = try load(
                    linear &+ UInt64(index), as: UInt8.self)
            }
        }
        return source
    }

    /// Stores the bytes behind the operations and puts the block into the tables.
    private func finish(_ cache: CodeCache, _ block: Block, _ source: CodeSource) {
        let header = unsafe block.header
        let count = unsafe Int(header.pointee.byteCount)
        // SAFETY: the caller made sure of the room.
        unsafe memcpy(block.bytes, cache.scratch, count)
        let size =
            unsafe Block.headerSize
            + Int(header.pointee.operationCount) * MemoryLayout<Operation>.stride + count
        if count > source.inPage { unsafe header.pointee.secondPage = source.secondPage }
        if source.isDevice {
            // Used once: the room is given away again by the next block.
            unsafe header.pointee.isTransient = true
            return
        }
        _ = cache.allocate(size)
        cache.insert(block)
        markCode(physical: unsafe header.pointee.physical & ~0xFFF)
        if unsafe header.pointee.secondPage != UInt64.max {
            markCode(physical: unsafe header.pointee.secondPage)
        }
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
        var isOpen = true
        var target: UInt64 = 0
        while count < maximum && isOpen {
            let left = unsafe UnsafeBufferPointer(
                start: bytes + position, count: min(15, available - position))
            var operation: Operation
            switch unsafe decoder.decode(left.span) {
            case .instruction(let instruction):
                position += Int(instruction.length)
                let (lowered, flow) = lowering.lower(
                    instruction, nextRIP: wrapped(rip &+ UInt64(position)))
                operation = lowered
                switch flow {
                case .continues: break
                case .ends: isOpen = false
                case .branches(let rip):
                    target = rip
                    isOpen = false
                }
            case .truncated where left.count < 15:
                if count == 0 { return .needsMore }
                // The next block begins with it.
                unsafe finish(block, op, count: count, position: position, isOpen: true, target: 0)
                return .done
            case .tooLong:
                operation = Operation(.tooLong)
                isOpen = false
            case .undefined, .truncated:
                operation = Operation(.undefined)
                isOpen = false
            }
            if !isOpen && operation.length == 0 {
                // A fault whatever follows; the bytes looked at belong to the block.
                operation.length = UInt8(left.count)
                position += left.count
            }
            operation.number = UInt8(truncatingIfNeeded: count)
            operation.nextOffset = UInt16(truncatingIfNeeded: position)
            unsafe op.initialize(to: operation)
            unsafe op += 1
            count += 1
        }
        unsafe finish(block, op, count: count, position: position, isOpen: isOpen, target: target)
        return .done
    }

    private func wrapped(_ rip: UInt64) -> UInt64 { lowering.is64 ? rip : rip & 0xFFFF_FFFF }

    /// `isOpen`: the block ends without a branch and continues at the next instruction.
    private func finish(
        _ block: Block, _ end: UnsafeMutablePointer<Operation>, count: Int, position: Int,
        isOpen: Bool, target: UInt64
    ) {
        var total = count
        if isOpen {
            var last = Operation(.fallThrough)
            last.number = UInt8(truncatingIfNeeded: count)
            last.nextOffset = UInt16(truncatingIfNeeded: position)
            unsafe end.initialize(to: last)
            total += 1
        }
        let header = unsafe block.header
        unsafe header.pointee.count = UInt16(truncatingIfNeeded: count)
        unsafe header.pointee.operationCount = UInt16(truncatingIfNeeded: total)
        unsafe header.pointee.byteCount = UInt16(truncatingIfNeeded: position)
        unsafe header.pointee.nextRIP = wrapped(rip &+ UInt64(position))
        unsafe header.pointee.takenRIP = target
    }
}
