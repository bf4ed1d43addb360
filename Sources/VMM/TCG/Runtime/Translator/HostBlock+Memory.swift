// Addresses, and the look into the soft TLB.
extension HostBlock {
    /// A guest register's host register; one that has none is loaded into `scratch`.
    mutating func source(_ guest: UInt8, _ scratch: UInt8) -> UInt8 {
        guard HostRegister.isInMemory(guest) else { return HostRegister.of(guest) }
        if scratch == HostRegister.first { held = nil }
        code.load(scratch, HostFrame.register(guest))
        return scratch
    }

    /// Where a result for a guest register is to be put before `store`.
    mutating func target(_ guest: UInt8, _ scratch: UInt8) -> UInt8 {
        guard HostRegister.isInMemory(guest) else { return HostRegister.of(guest) }
        if scratch == HostRegister.first { held = nil }
        return scratch
    }

    /// Puts back what has been changed.
    mutating func store(_ guest: UInt8, _ scratch: UInt8) {
        if HostRegister.isInMemory(guest) { code.store(HostFrame.register(guest), scratch) }
    }

    /// `[base + index << scale + displacement]` of an operation with its registers loaded, or `nil`
    /// if it is a constant.
    private mutating func sum(_ op: OperationPointer) -> HostMemory? {
        let hasBase = op.base != Register.none
        let hasIndex = op.index != Register.none
        let displacement = Int32(truncatingIfNeeded: op.displacement)
        if !hasBase && !hasIndex { return nil }
        let index = hasIndex ? source(op.index, HostRegister.second) : nil
        if hasBase {
            return HostMemory(
                source(op.base, HostRegister.first), index: index, scale: op.scale, displacement)
        }
        guard let index else { return nil }
        // Without a base: the index alone, shifted.
        if op.scale == 0 { return HostMemory(index, displacement) }
        code.set(HostRegister.first, to: UInt64(bitPattern: op.displacement))
        return HostMemory(HostRegister.first, index: index, scale: op.scale, 0)
    }

    /// Whether `address` can compute the operation's address.
    func canAddress(_ op: OperationPointer) -> Bool {
        switch op.addressKind {
        case .flat64, .segment64, .address32In64: break
        default: return false
        }
        if op.base == Register.none && op.index == Register.none { return true }
        return Int32(exactly: op.displacement) != nil
    }

    /// Computes the sum of base, index and displacement.
    mutating func sum(_ op: OperationPointer, into register: UInt8, size: UInt8) {
        if let memory = sum(op) {
            code.lea(register, memory, size: size)
        } else {
            let value = UInt64(bitPattern: op.displacement)
            if op.form.contains(.relativeDisplacement) && size == 8 {
                setMoving(register, to: value)
            } else {
                code.set(register, to: size == 4 ? value & 0xFFFF_FFFF : value)
            }
        }
    }

    /// Leaves the linear address of the operation's memory operand in R9.
    private mutating func address(_ op: OperationPointer) {
        let size: UInt8 = op.addressKind == .address32In64 ? 4 : 8
        sum(op, into: HostRegister.first, size: size)
        if op.addressKind != .flat64, op.segment >= SegmentRegister.fs {
            code.load(HostRegister.second, HostState.addressBase(op.segment))
            code.lea(
                HostRegister.first,
                HostMemory(HostRegister.first, index: HostRegister.second, scale: 0, 0))
        }
    }

    /// Makes `operand` the host address of the operation's memory operand, by way of R9.
    ///
    /// - Parameter keepsAddress: the linear address is in the frame's `target` then.
    mutating func access(
        _ op: OperationPointer, size: UInt8, isWrite: Bool, isAligned: Bool = false,
        keepsAddress: Bool = false
    ) {
        let isPlain = op.addressKind == .flat64 || op.segment < SegmentRegister.fs
        if isPlain, !keepsAddress, op.addressKind != .address32In64, op.index == Register.none,
            op.base != Register.none, let displacement = Int32(exactly: op.displacement)
        {
            let access = Access(
                base: op.base, displacement: displacement, size: size, isWrite: isWrite)
            return reach(access, isAligned: isAligned)
        }
        saveFlags()
        address(op)
        if keepsAddress {
            code.store(HostFrame.slot(HostFrame.target), HostRegister.first)
        }
        translate(.operand, size: size, isWrite: isWrite, isAligned: isAligned)
    }

    /// The same for the word that has the bit whose number a register holds, counted from the
    /// operand (SDM volume 2, section 3.1.1.9).
    mutating func accessBit(_ op: OperationPointer, isWrite: Bool, isAligned: Bool) {
        saveFlags()
        bitAddress(op)
        translate(.bit, size: op.size, isWrite: isWrite, isAligned: isAligned)
    }

    private mutating func bitAddress(_ op: OperationPointer) {
        let (first, second) = (HostRegister.first, HostRegister.second)
        address(op)
        let number = source(op.source, second)
        if op.size == 8 {
            code.move(second, number)
        } else {
            code.registers(0x63, size: 8, reg: second, rm: number)  // movsxd
        }
        code.registers(0xC1, size: 8, reg: 7, rm: second)  // sar r10, log2 of the bits
        code.byte(op.size == 8 ? 6 : 5)
        code.lea(first, HostMemory(first, index: second, scale: op.size == 8 ? 3 : 2, 0))
    }

    /// Turns the linear address in R9 into a host address, `operand`; the interpreter has what
    /// cannot be. Takes R10 and the flags, which have been saved.
    ///
    /// - Parameter isAligned: an address that is no multiple of the size is the interpreter's too.
    mutating func translate(
        _ address: Fill.Address, size: UInt8, isWrite: Bool, isAligned: Bool = false
    ) {
        let (first, second) = (HostRegister.first, HostRegister.second)
        held = nil
        lookIntoTLB(isWrite: isWrite)
        let miss: Int
        if isAligned {
            code.registers(0xF7, size: 8, reg: 0, rm: first)  // test r9, all but an aligned offset
            code.word(~(4096 - Int32(size)))
            miss = code.jump(if: 5)
        } else {
            code.registers(0x81, size: 8, reg: 7, rm: first)  // cmp r9, 4096 - size
            code.word(4096 - Int32(size))
            miss = code.jump(if: 7)
        }
        addHost(second)
        // Nothing is ever in that table.
        if accessMode == TLBMode.userAligned { return orInterpret(miss) }
        let access = HostAccess(
            size: size, mode: accessMode, isWrite: isWrite, isAligned: isAligned)
        orFill(miss, Fill(address: address, access: access, resume: code.position))
    }

    /// How an access is reached whose page is not in the soft TLB.
    struct Fill {
        /// What says where the access is. Nothing has changed since its address was computed.
        enum Address {
            case operand
            /// The word that has a bit (`accessBit`).
            case bit
            case register(UInt8, displacement: Int32)
        }

        var address: Address
        var access: HostAccess
        /// Where the code goes on with the host address in R9.
        var resume: Int
    }

    /// Asks for the host address, and goes on behind this where there is none.
    mutating func fill(_ fill: Fill, _ op: OperationPointer) {
        let first = HostRegister.first
        switch fill.address {
        case .operand: address(op)
        case .bit: bitAddress(op)
        case .register(let register, let displacement):
            code.lea(first, HostMemory(source(register, first), displacement))
        }
        code.set(HostRegister.second, to: UInt64(fill.access.rawValue))
        code.call(stubs.fill)
        // The stub passes over this jump where it has found nothing.
        code.jump(to: fill.resume)
    }

    /// Leaves in R9 how the linear address there differs from the tag of its entry in the soft
    /// TLB, whose offset is in R10 then.
    mutating func lookIntoTLB(isWrite: Bool) {
        let (first, second) = (HostRegister.first, HostRegister.second)
        if HostFeatures.shared.hasBMI2 {
            code.sequence(0xC4, 0x43, 0x7B, 0xF0, 0xD1, 7)  // rorx r10d, r9d, 7
        } else {
            code.move(second, first, size: 4)
            code.registers(0xC1, size: 4, reg: 5, rm: second)  // shr r10d, 7
            code.byte(7)
        }
        code.registers(0x81, size: 4, reg: 4, rm: second)  // and r10d, slots
        code.word(Int32((TLB.entries - 1) * TLBEntry.stride))
        let tag: Int32 = isWrite ? 8 : 0
        code.memory(
            0x33, size: 8, reg: first, HostFrame.tlb(mode: accessMode, entry: second, tag))
    }

    /// Makes a host address of the offset in R9.
    mutating func addHost(_ entry: UInt8) {
        code.memory(
            0x03, size: 8, reg: HostRegister.first,
            HostFrame.tlb(mode: accessMode, entry: entry, 16))
        operand = HostMemory(HostRegister.first)
    }
}
