// Far jumps, calls and returns (SDM volume 3, section 5.8; volume 2, JMP, CALL, RET).

extension CPU {
    func farJump(
        selector: UInt16, offset: UInt64, operandSize: UInt8, nextRIP: UInt64
    ) throws(Fault) {
        guard isProtectedMode else {
            return try realJump(selector, offset & sizeMask(operandSize))
        }
        let descriptor = try transferDescriptor(selector)
        if descriptor.isCodeOrData {
            try checkCode(descriptor, selector, rpl: UInt8(selector & 3))
            return try enterCode(selector, descriptor, offset & sizeMask(operandSize), cpl: cpl)
        }
        if let target = try gateTarget(selector, descriptor, nextRIP: nextRIP, .jump) {
            // A jump does not change the privilege level.
            try checkCode(target.descriptor, target.selector, rpl: 0)
            try enterCode(target.selector, target.descriptor, target.offset, cpl: cpl)
        }
    }

    func farCall(
        selector: UInt16, offset: UInt64, operandSize: UInt8, nextRIP: UInt64
    ) throws(Fault) {
        let size = Int(operandSize)
        var stack = Stack(current: self)
        let oldCS = UInt64(segment(SegmentRegister.cs).selector)
        guard isProtectedMode else {
            try checkRealTarget(offset & sizeMask(operandSize))
            try stack.push(oldCS, size: size)
            try stack.push(nextRIP, size: size)
            try realJump(selector, offset & sizeMask(operandSize))
            return stack.commit()
        }
        let descriptor = try transferDescriptor(selector)
        if descriptor.isCodeOrData {
            try checkCode(descriptor, selector, rpl: UInt8(selector & 3))
            try stack.push(oldCS, size: size)
            try stack.push(nextRIP, size: size)
            try enterCode(selector, descriptor, offset & sizeMask(operandSize), cpl: cpl)
            return stack.commit()
        }
        guard let target = try gateTarget(selector, descriptor, nextRIP: nextRIP, .call) else {
            return
        }
        if !target.descriptor.isConforming && target.descriptor.dpl < cpl {
            return try callInner(target, nextRIP: nextRIP)
        }
        try stack.push(oldCS, size: target.size)
        try stack.push(nextRIP, size: target.size)
        try enterCode(target.selector, target.descriptor, target.offset, cpl: cpl)
        stack.commit()
    }

    @inline(__always)
    func sizeMask(_ size: UInt8) -> UInt64 {
        size == 2 ? 0xFFFF : size == 4 ? 0xFFFF_FFFF : UInt64.max
    }

    // MARK: Real mode and VM86

    private func checkRealTarget(_ offset: UInt64) throws(Fault) {
        if offset > UInt64(segment(SegmentRegister.cs).limit) { throw .generalProtection(0) }
    }

    private func realJump(_ selector: UInt16, _ offset: UInt64) throws(Fault) {
        try checkRealTarget(offset)
        loadRealSegment(SegmentRegister.cs, selector: selector)
        rip = offset
        updateMode()
    }

    // MARK: Code segments

    /// What a far pointer's selector names; faults for null and what lies outside the table.
    private func transferDescriptor(_ selector: UInt16) throws(Fault) -> Descriptor {
        if selector & ~3 == 0 { throw .generalProtection(0) }
        guard let descriptor = try readDescriptor(selector) else {
            throw .generalProtection(selector & ~3)
        }
        return descriptor
    }

    /// The checks of a transfer to a code segment at the same privilege level.
    private func checkCode(
        _ descriptor: Descriptor, _ selector: UInt16, rpl: UInt8
    ) throws(Fault) {
        let code = selector & ~3
        guard descriptor.isCode else { throw .generalProtection(code) }
        if descriptor.isConforming {
            if descriptor.dpl > cpl { throw .generalProtection(code) }
        } else if rpl > cpl || descriptor.dpl != cpl {
            throw .generalProtection(code)
        }
        if fields.isLongMode && descriptor.isLong && descriptor.isBig {
            throw .generalProtection(code)
        }
        guard descriptor.isPresent else { throw .segmentNotPresent(code) }
    }

    /// Checks the target offset, then loads CS and RIP; nothing is changed on a fault.
    func enterCode(
        _ selector: UInt16, _ descriptor: Descriptor, _ offset: UInt64, cpl newCPL: UInt8,
        fault code: UInt16 = 0
    ) throws(Fault) {
        let isLong = fields.isLongMode && descriptor.isLong
        let offset = isLong ? offset : offset & 0xFFFF_FFFF
        if isLong ? !isCanonical(offset) : offset > UInt64(descriptor.limit) {
            throw .generalProtection(code)
        }
        let marked = try markAccessed(selector, descriptor)
        fields.cpl = newCPL
        setSegment(SegmentRegister.cs, marked.segment((selector & ~3) | UInt16(newCPL)))
        rip = offset
        updateMode()
    }

    // MARK: Gates

    private struct GateTarget {
        var selector: UInt16
        var descriptor: Descriptor
        var offset: UInt64
        /// Bytes of each value pushed.
        var size: Int
        /// Parameters to copy to an inner stack.
        var parameters: Int
    }

    /// Where a call gate leads; `nil` after a task switch.
    private func gateTarget(
        _ selector: UInt16, _ gate: Descriptor, nextRIP: UInt64, _ kind: TaskSwitchKind
    ) throws(Fault) -> GateTarget? {
        let code = selector & ~3
        let isLong = fields.isLongMode
        switch gate.type {
        case SystemType.callGate: break
        case SystemType.callGate16 where !isLong: break
        case SystemType.taskGate where !isLong:
            try checkGate(gate, selector)
            let task = gate.gateSelector
            let descriptor = try taskDescriptor(task) { .generalProtection($0) }
            try switchTask(task, descriptor, kind, nextRIP: nextRIP)
            return nil
        case SystemType.tss where !isLong, SystemType.tss16 where !isLong:
            let rpl = UInt8(selector & 3)
            if gate.dpl < cpl || gate.dpl < rpl || selector & 4 != 0 {
                throw .generalProtection(code)
            }
            guard gate.isPresent else { throw .segmentNotPresent(code) }
            try switchTask(selector, gate, kind, nextRIP: nextRIP)
            return nil
        default: throw .generalProtection(code)
        }
        try checkGate(gate, selector)
        let target = gate.gateSelector
        var offset = gate.type == SystemType.callGate16 ? gate.gateOffset16 : gate.gateOffset32
        if isLong { offset |= try readUpperHalf(selector) << 32 }
        if target & ~3 == 0 { throw .generalProtection(0) }
        guard let descriptor = try readDescriptor(target) else {
            throw .generalProtection(target & ~3)
        }
        guard descriptor.isCode, descriptor.dpl <= cpl,
            !isLong || (descriptor.isLong && !descriptor.isBig)
        else { throw .generalProtection(target & ~3) }
        guard descriptor.isPresent else { throw .segmentNotPresent(target & ~3) }
        let size = isLong ? 8 : gate.type == SystemType.callGate16 ? 2 : 4
        return GateTarget(
            selector: target, descriptor: descriptor, offset: offset, size: size,
            parameters: isLong ? 0 : gate.gateCount)
    }

    private func checkGate(_ gate: Descriptor, _ selector: UInt16) throws(Fault) {
        let code = selector & ~3
        if gate.dpl < cpl || gate.dpl < UInt8(selector & 3) { throw .generalProtection(code) }
        guard gate.isPresent else { throw .segmentNotPresent(code) }
    }

    /// A call through a gate to a more privileged level: new stack, parameters copied.
    private func callInner(_ target: GateTarget, nextRIP: UInt64) throws(Fault) {
        let newCPL = target.descriptor.dpl
        let old = Stack(current: self)
        let oldSS = segment(SegmentRegister.ss).selector
        var (stack, segment) = try innerStack(newCPL, ext: 0)
        try stack.push(UInt64(oldSS), size: target.size)
        try stack.push(self[4], size: target.size)
        for index in stride(from: target.parameters - 1, through: 0, by: -1) {
            let value = try old.peek(index * target.size, size: target.size)
            try stack.push(value, size: target.size)
        }
        try stack.push(UInt64(self.segment(SegmentRegister.cs).selector), size: target.size)
        try stack.push(nextRIP, size: target.size)
        try enterCode(target.selector, target.descriptor, target.offset, cpl: newCPL)
        segment.selector = (segment.selector & ~3) | UInt16(newCPL)
        setSegment(SegmentRegister.ss, segment)
        updateMode()
        stack.commit()
    }

    // MARK: Far return

    func farReturn(operandSize: UInt8, popBytes: UInt16) throws(Fault) {
        let size = Int(operandSize)
        var stack = Stack(current: self)
        let target = try stack.pop(size: size)
        let selector = UInt16(truncatingIfNeeded: try stack.pop(size: size))
        guard isProtectedMode else {
            try realJump(selector, target)
            stack.pointer = (stack.pointer &+ UInt64(popBytes)) & stack.mask
            return stack.commit()
        }
        let descriptor = try returnDescriptor(selector)
        stack.pointer = (stack.pointer &+ UInt64(popBytes)) & stack.mask
        if UInt8(selector & 3) == cpl {
            try enterCode(selector, descriptor, target, cpl: cpl)
            return stack.commit()
        }
        let newPointer = try stack.pop(size: size)
        let newSS = UInt16(truncatingIfNeeded: try stack.pop(size: size))
        try returnOuter(
            selector, descriptor, target, newSS: newSS,
            pointer: newPointer &+ UInt64(popBytes))
    }

    /// The checks on the code segment that RET and IRET return to.
    func returnDescriptor(_ selector: UInt16) throws(Fault) -> Descriptor {
        if selector & ~3 == 0 { throw .generalProtection(0) }
        let code = selector & ~3
        let rpl = UInt8(selector & 3)
        guard let descriptor = try readDescriptor(selector), descriptor.isCode, rpl >= cpl,
            descriptor.isConforming ? descriptor.dpl <= rpl : descriptor.dpl == rpl,
            !(fields.isLongMode && descriptor.isLong && descriptor.isBig)
        else { throw .generalProtection(code) }
        guard descriptor.isPresent else { throw .segmentNotPresent(code) }
        return descriptor
    }

    /// Returns to an outer level (or, for IRET in 64-bit mode, to the same) with a new stack.
    func returnOuter(
        _ selector: UInt16, _ descriptor: Descriptor, _ target: UInt64, newSS: UInt16,
        pointer: UInt64
    ) throws(Fault) {
        let newCPL = UInt8(selector & 3)
        let stack: Segment
        if newSS & ~3 == 0 {
            // A null stack segment is for 64-bit code that is not at level 3.
            guard fields.isLongMode, descriptor.isLong, newCPL != 3, UInt8(newSS & 3) == newCPL
            else { throw .generalProtection(0) }
            stack = nullStack(newCPL)
        } else {
            stack = try stackSegment(newSS, cpl: newCPL) { .generalProtection($0) }
        }
        let isOuter = newCPL != cpl
        try enterCode(selector, descriptor, target, cpl: newCPL)
        setSegment(SegmentRegister.ss, stack)
        if isOuter { dropPrivilegedSegments() }
        updateMode()
        Stack(
            self, stack, pointer: pointer, isLong: is64Bit, mode: 0, code: 0
        ).commit()
    }
}
