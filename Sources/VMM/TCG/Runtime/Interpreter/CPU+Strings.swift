// MOVS, STOS, LODS, CMPS and SCAS. With REP, memory is worked on in runs that stay inside a page of
// either operand; RCX, RSI and RDI are brought up to date after every run, so that a fault or an
// interrupt between runs finds them right and the instruction can be resumed.

extension CPU {
    /// Executes a string instruction. `false`: it was interrupted and must be executed again.
    @inline(never)
    func string(_ op: OperationPointer) throws(Fault) -> Bool {
        switch op.size {
        case 1: try string(op, UInt8.self)
        case 2: try string(op, UInt16.self)
        case 4: try string(op, UInt32.self)
        default: try string(op, UInt64.self)
        }
    }

    private func string<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) -> Bool {
        let operation = StringOperation(rawValue: op.detail) ?? .movs
        let isRepeated = !op.form.isDisjoint(with: [.rep, .repne])
        guard isRepeated else {
            try stringElement(op, operation, T.self)
            return true
        }
        var runs = 0
        while stringRegister(op, Register.rcx) != 0 {
            // Not before the first run: an interrupted instruction must get on.
            if runs != 0 && (isSingleStepping || isWanted(after: runs)) { return pauseRepetition() }
            runs += 1
            if try fastRun(op, operation, T.self) { continue }
            try slowRun(op, operation, T.self)
            if endsRepetition(op, operation) { break }
        }
        return true
    }

    /// Whether somebody wants the CPU between two runs.
    private func isWanted(after runs: Int) -> Bool {
        fields.lockstep < Lockstep.Stage.copied ? hasExitRequest : isTooLong(after: runs)
    }

    private var isSingleStepping: Bool {
        fields.modeKey & ModeKey.singleStep != 0
    }

    /// Leaves the instruction to be executed again. RF keeps its own breakpoint from hitting once
    /// more (SDM volume 3, section 18.3.1.1).
    private func pauseRepetition() -> Bool {
        if hasBreakpoints { fields.systemFlags |= RFLAGS.rf }
        return false
    }

    /// A run of MOVS or STOS on host memory. `false` if there is none at this place.
    private func fastRun<T: OperandWord>(
        _ op: OperationPointer, _ operation: StringOperation, _: T.Type
    ) throws(Fault) -> Bool {
        guard operation == .movs || operation == .stos, !isSingleStepping,
            fields.systemFlags & RFLAGS.df == 0
        else { return false }
        let size = MemoryLayout<T>.size
        let destinationOffset = stringRegister(op, Register.rdi)
        let destination = try linearAddress(
            segment: SegmentRegister.es, offset: destinationOffset, size: size, isWrite: true)
        var count = Int(clamping: stringRegister(op, Register.rcx))
        count = min(count, elementsInPage(destination, size))
        count = min(count, elementsInSegment(op, SegmentRegister.es, destinationOffset, size))
        var source: UInt64 = 0
        if operation == .movs {
            let sourceOffset = stringRegister(op, Register.rsi)
            source = try linearAddress(
                segment: op.segment, offset: sourceOffset, size: size, isWrite: false)
            count = min(count, elementsInPage(source, size))
            count = min(count, elementsInSegment(op, op.segment, sourceOffset, size))
        }
        // SAFETY: both runs stay in the page that the TLB entry answers for.
        guard count > 1, let target = unsafe writableHost(destination, size: size) else {
            return false
        }
        if operation == .movs {
            guard let origin = unsafe readableHost(source, size: size) else { return false }
            unsafe copyForward(to: target, from: origin, count: count, T.self)
            advanceString(op, Register.rsi, by: Int64(count * size))
        } else {
            unsafe fill(target, with: register(Register.rax, as: T.self), count: count)
        }
        advanceString(op, Register.rdi, by: Int64(count * size))
        advanceString(op, Register.rcx, by: -Int64(count))
        return true
    }

    /// Elements from here to the end of the page.
    private func elementsInPage(_ linear: UInt64, _ size: Int) -> Int {
        Int(4096 - (linear & 4095)) / size
    }

    /// Elements until the offset wraps or the segment may end; 16- and 32-bit code only.
    private func elementsInSegment(
        _ op: OperationPointer, _ segment: UInt8, _ offset: UInt64, _ size: Int
    ) -> Int {
        if is64Bit { return op.displacement == 8 ? .max : Int((1 << 32) - offset) / size }
        let limit = self.segment(segment).limit
        // What an expand-down segment allows is left to the slow way.
        if self.segment(segment).type & 0xC == 4 { return 0 }
        let last = op.displacement == 2 ? min(UInt64(limit), 0xFFFF) : UInt64(limit)
        return offset > last ? 0 : Int(last - offset + 1) / size
    }

    /// Copies element by element, as far as that can be told: an overlap that reads what was
    /// written repeats a pattern.
    // SAFETY: the caller checked both ranges.
    private func copyForward<T: OperandWord>(
        to target: UnsafeMutableRawPointer, from origin: UnsafeRawPointer, count: Int, _: T.Type
    ) {
        let size = MemoryLayout<T>.size
        let distance = unsafe UnsafeRawPointer(target) - origin
        if distance <= 0 || distance >= count * size {
            unsafe target.copyMemory(from: origin, byteCount: count * size)
            return
        }
        for index in 0..<count {
            let value = unsafe origin.loadUnaligned(fromByteOffset: index * size, as: T.self)
            unsafe target.storeBytes(of: value, toByteOffset: index * size, as: T.self)
        }
    }

    // SAFETY: the caller checked the range.
    private func fill<T: OperandWord>(
        _ target: UnsafeMutableRawPointer, with value: T, count: Int
    ) {
        let byte = UInt8(truncatingIfNeeded: value)
        if value == T(truncatingIfNeeded: UInt64(byte) &* 0x0101_0101_0101_0101) {
            unsafe target.initializeMemory(
                as: UInt8.self, repeating: byte, count: count * MemoryLayout<T>.size)
            return
        }
        for index in 0..<count {
            unsafe target.storeBytes(
                of: value, toByteOffset: index * MemoryLayout<T>.size, as: T.self)
        }
    }

    /// Up to a page's worth of elements, one by one.
    private func slowRun<T: OperandWord>(
        _ op: OperationPointer, _ operation: StringOperation, _: T.Type
    ) throws(Fault) {
        // MOVS and STOS get a fast run as soon as the TLB knows their pages.
        let isForward = fields.systemFlags & RFLAGS.df == 0
        let canBeFast = isForward && (operation == .movs || operation == .stos)
        var budget = isSingleStepping || canBeFast ? 1 : 1024
        repeat {
            try stringElement(op, operation, T.self)
            advanceString(op, Register.rcx, by: -1)
            budget -= 1
        } while budget > 0 && stringRegister(op, Register.rcx) != 0
            && !endsRepetition(op, operation)
    }

    /// REPE and REPNE: the last comparison ends the loop.
    @inline(__always)
    private func endsRepetition(_ op: OperationPointer, _ operation: StringOperation) -> Bool {
        guard operation == .cmps || operation == .scas else { return false }
        return op.form.contains(.repne) ? zeroFlag : !zeroFlag
    }

    /// One element; registers change only when nothing can fault any more.
    @inline(__always)
    private func stringElement<T: OperandWord>(
        _ op: OperationPointer, _ operation: StringOperation, _: T.Type
    ) throws(Fault) {
        let size = MemoryLayout<T>.size
        let step =
            fields.systemFlags & RFLAGS.df == 0 ? Int64(size) : -Int64(size)
        switch operation {
        case .movs:
            let value = try load(stringSource(op, size), as: T.self)
            try store(stringDestination(op, size, isWrite: true), value)
        case .stos:
            try store(
                stringDestination(op, size, isWrite: true), register(Register.rax, as: T.self))
        case .lods:
            setRegister(Register.rax, try load(stringSource(op, size), as: T.self))
        case .cmps:
            let a = try load(stringSource(op, size), as: T.self)
            _ = alu(.cmp, a, try load(stringDestination(op, size, isWrite: false), as: T.self))
        case .scas:
            let b = try load(stringDestination(op, size, isWrite: false), as: T.self)
            _ = alu(.cmp, register(Register.rax, as: T.self), b)
        }
        if operation != .stos && operation != .scas { advanceString(op, Register.rsi, by: step) }
        if operation != .lods { advanceString(op, Register.rdi, by: step) }
    }

    @inline(__always)
    private func stringSource(_ op: OperationPointer, _ size: Int) throws(Fault) -> UInt64 {
        try linearAddress(
            segment: op.segment, offset: stringRegister(op, Register.rsi), size: size,
            isWrite: false)
    }

    @inline(__always)
    private func stringDestination(
        _ op: OperationPointer, _ size: Int, isWrite: Bool
    ) throws(Fault) -> UInt64 {
        try linearAddress(
            segment: SegmentRegister.es, offset: stringRegister(op, Register.rdi), size: size,
            isWrite: isWrite)
    }

    // MARK: RCX, RSI and RDI in the address size

    @inline(__always)
    func stringRegister(_ op: OperationPointer, _ number: UInt8) -> UInt64 {
        switch op.displacement {
        case 2: self[number] & 0xFFFF
        case 4: self[number] & 0xFFFF_FFFF
        default: self[number]
        }
    }

    @inline(__always)
    func advanceString(_ op: OperationPointer, _ number: UInt8, by step: Int64) {
        let value = self[number] &+ UInt64(bitPattern: step)
        switch op.displacement {
        case 2: setRegister(number, UInt16(truncatingIfNeeded: value))
        case 4: setRegister(number, UInt32(truncatingIfNeeded: value))
        default: self[number] = value
        }
    }

    /// As `writableHost`, for reading.
    @inline(__always)
    func readableHost(_ linear: UInt64, size: Int) -> UnsafeRawPointer? {
        // SAFETY: as in `load`.
        let entry = unsafe state.pointee.tlb + TLB.index(linear)
        guard unsafe entry.pointee.readTag ^ linear <= UInt64(4096 - size) else { return nil }
        return unsafe UnsafeRawPointer(bitPattern: UInt(entry.pointee.host &+ linear & 0xFFF))
    }

    // MARK: Ports

    /// INS and OUTS. `false`: more elements are to come, and something else first.
    func portString(_ op: OperationPointer, isInput: Bool) throws(Fault) -> Bool {
        let port = register(Register.rdx, as: UInt16.self)
        let size = Int(op.size)
        // Whether the port may be used comes before all of memory, and even if nothing is to be moved.
        try checkPort(port, size: size)
        let isRepeated = !op.form.isDisjoint(with: [.rep, .repne])
        if isRepeated && stringRegister(op, Register.rcx) == 0 { return true }
        repeat {
            let forward = fields.systemFlags & RFLAGS.df == 0
            if isInput {
                let linear = try stringDestination(op, size, isWrite: true)
                try probeWrite(linear, size: size)
                let value = try portIn(port, size: size)
                try storeSized(linear, UInt64(value), size: op.size)
            } else {
                let value = try loadSized(stringSource(op, size), size: op.size)
                try portOut(port, size: size, UInt32(truncatingIfNeeded: value))
            }
            advanceString(
                op, isInput ? Register.rdi : Register.rsi,
                by: forward ? Int64(size) : -Int64(size))
            if !isRepeated { return true }
            advanceString(op, Register.rcx, by: -1)
            if stringRegister(op, Register.rcx) == 0 { return true }
        } while !hasExitRequest && !isSingleStepping
        return pauseRepetition()
    }
}
