internal import Glibc
internal import Synchronization

// System instructions after which a block goes on.

extension CPU {
    func generalSystem(_ op: OperationPointer, _ operation: GeneralOperation) throws(Fault) {
        switch operation {
        case .pause: pause()
        case .bound: try bound(op)
        case .arpl: try adjustRequestedPrivilege(op)
        case .lar, .lsl: try loadDescriptorPart(op, operation)
        case .verr: setZero(try verr(try selectorOperand(op)))
        case .verw: setZero(try verw(try selectorOperand(op)))
        case .sldt, .str, .smsw: try storeSystemWord(op, operation)
        case .sgdt, .sidt: try storeTable(op, operation)
        case .movFromControl:
            setRegister(op.destination, try readControlRegister(op.source), size: op.size)
        case .movFromDebug:
            setRegister(op.destination, try readDebugRegister(op.source), size: op.size)
        case .rdmsr: try readMSR()
        case .rdpmc: throw .generalProtection(0)
        case .swapgs: try swapGS()
        case .readSegmentBase:
            try requireBaseInstructions()
            setRegister(op.destination, segment(op.segment).base, size: op.size)
        case .writeSegmentBase:
            try requireBaseInstructions()
            let value = self[op.source]
            try setSegmentBase(op.segment, op.size == 4 ? value & 0xFFFF_FFFF : value)
        case .xgetbv: try xgetbv()
        case .xsave: try xsave(op, .all)
        case .xsaveopt: try xsave(op, .inUse)
        case .xsavec: try xsave(op, .compacted)
        case .xrstor: try xrstor(op)
        case .cacheLineFlush:
            // Checked as a read.
            _ = try load(try linearAddress(op, size: 1, isWrite: false), as: UInt8.self)
        default: atomicMemoryFence(ordering: .sequentiallyConsistent)
        }
    }

    /// RDFSBASE and its like exist only with CR4.FSGSBASE.
    private func requireBaseInstructions() throws(Fault) {
        guard fields.cr4 & (1 << 16) != 0 else { throw .invalidOpcode }
    }

    private func selectorOperand(_ op: OperationPointer) throws(Fault) -> UInt16 {
        try sourceValue(op, UInt16.self)
    }

    private func bound(_ op: OperationPointer) throws(Fault) {
        let size = Int(op.size)
        let offset = effectiveOffset(op)
        let low = try linearAddress(op, offset: offset, size: size, isWrite: false)
        let high = try linearAddress(
            op, offset: offset &+ UInt64(size), size: size, isWrite: false)
        func signed(_ value: UInt64) -> UInt64 {
            size == 2
                ? signExtended(UInt16(truncatingIfNeeded: value))
                : signExtended(UInt32(truncatingIfNeeded: value))
        }
        let lower = Int64(bitPattern: signed(try loadSized(low, size: op.size)))
        let upper = Int64(bitPattern: signed(try loadSized(high, size: op.size)))
        let index = Int64(bitPattern: signed(self[op.source]))
        guard index >= lower, index <= upper else { throw .boundRange }
    }

    private func adjustRequestedPrivilege(_ op: OperationPointer) throws(Fault) {
        let wanted = register(op.source, as: UInt16.self) & 3
        var isLower = false
        try modifyDestination(op, UInt16.self) { selector in
            isLower = selector & 3 < wanted
            return isLower ? selector & ~3 | wanted : selector
        }
        setZero(isLower)
    }

    private func loadDescriptorPart(
        _ op: OperationPointer, _ operation: GeneralOperation
    ) throws(Fault) {
        let selector = try selectorOperand(op)
        let value = operation == .lar ? try lar(selector) : try lsl(selector)
        if let value { setRegister(op.destination, UInt64(value), size: op.size) }
        setZero(value != nil)
    }

    private func storeSystemWord(
        _ op: OperationPointer, _ operation: GeneralOperation
    ) throws(Fault) {
        try checkUserModeInstructionPrevention()
        let value: UInt64
        switch operation {
        case .sldt: value = UInt64(segment(SegmentRegister.ldtr).selector)
        case .str: value = UInt64(segment(SegmentRegister.tr).selector)
        default: value = fields.cr0
        }
        if op.form.contains(.memoryDestination) {
            try storeOperand(op, UInt16(truncatingIfNeeded: value))
        } else {
            setRegister(op.destination, value, size: op.size)
        }
    }

    /// SGDT and SIDT: the limit, and 8 bytes of base in 64-bit code, else 4. `size` is the whole.
    private func storeTable(
        _ op: OperationPointer, _ operation: GeneralOperation
    ) throws(Fault) {
        try checkUserModeInstructionPrevention()
        let table = operation == .sgdt ? fields.gdtr : fields.idtr
        let offset = effectiveOffset(op)
        let size = is64Bit ? 10 : 6
        let linear = try linearAddress(op, offset: offset, size: size, isWrite: true)
        try probeWrite(linear, size: size)
        try store(linear, table.limit)
        if is64Bit {
            try store(linear &+ 2, table.base)
        } else {
            try store(linear &+ 2, UInt32(truncatingIfNeeded: table.base))
        }
    }

    /// PAUSE of one CPU among several: what it spins for may be the work of one that shares the
    /// host's CPU with it and does not run, so every now and then the host may let that one run.
    private func pause() {
        fields.pauseCount &+= 1
        if fields.pauseCount % 64 == 0 { sched_yield() }
    }
}
