// Handlers that a gate of the IDT names (SDM volume 3, sections 6.12 to 6.14).

extension CPU {
    /// The gate of an event, after the checks that all modes share.
    private func readGate(_ event: Event, size: UInt64) throws(Fault) -> Descriptor {
        let offset = UInt64(event.vector) * size
        if offset + size - 1 > UInt64(fields.idtr.limit) {
            throw .generalProtection(event.tableCode)
        }
        let gate = Descriptor(
            try loadSupervisor(fields.idtr.base &+ offset, as: UInt64.self))
        let isWide = gate.type == SystemType.interruptGate || gate.type == SystemType.trapGate
        let isNarrow =
            gate.type == SystemType.interruptGate16 || gate.type == SystemType.trapGate16
            || gate.type == SystemType.taskGate
        guard !gate.isCodeOrData, isWide || (isNarrow && !fields.isLongMode) else {
            throw .generalProtection(event.tableCode)
        }
        if event.kind == .software && gate.dpl < cpl { throw .generalProtection(event.tableCode) }
        guard gate.isPresent else { throw .segmentNotPresent(event.tableCode) }
        return gate
    }

    /// The handler's code segment.
    private func handlerSegment(_ selector: UInt16, _ event: Event) throws(Fault) -> Descriptor {
        let ext = event.kind.ext
        if selector & ~3 == 0 { throw .generalProtection(ext) }
        let code = (selector & ~3) | ext
        guard let descriptor = try readDescriptor(selector), descriptor.isCode,
            descriptor.dpl <= cpl,
            !fields.isLongMode || (descriptor.isLong && !descriptor.isBig)
        else { throw .generalProtection(code) }
        guard descriptor.isPresent else { throw .segmentNotPresent(code) }
        return descriptor
    }

    /// The flags that a handler starts with.
    private func clearFlags(_ gate: Descriptor) {
        var cleared = RFLAGS.tf | RFLAGS.nt | RFLAGS.rf | RFLAGS.vm
        if gate.type & 1 == 0 { cleared |= RFLAGS.interruptEnable }
        setSystemFlags(fields.systemFlags & ~cleared)
    }

    /// Long mode (SDM volume 3, section 6.14).
    func enterLong(_ event: Event) throws(Fault) {
        let gate = try readGate(event, size: 16)
        let upper = try loadSupervisor(
            fields.idtr.base &+ UInt64(event.vector) * 16 &+ 8, as: UInt64.self)
        let target = gate.gateOffset32 | upper << 32
        let selector = gate.gateSelector
        let descriptor = try handlerSegment(selector, event)
        let newCPL = descriptor.isConforming ? cpl : descriptor.dpl
        let ext = event.kind.ext
        let table = gate.gateStackTable
        var stack: Stack
        if newCPL != cpl || table != 0 {
            (stack, _) = try innerStack(newCPL, ext: ext, table: table)
        } else {
            stack = Stack(
                self, segment(SegmentRegister.ss), pointer: self[4], isLong: true, mode: dataMode,
                code: ext)
        }
        stack.pointer &= ~15
        try stack.push(UInt64(segment(SegmentRegister.ss).selector), size: 8)
        try stack.push(self[4], size: 8)
        try stack.push(savedFlags(event), size: 8)
        try stack.push(UInt64(segment(SegmentRegister.cs).selector), size: 8)
        try stack.push(event.returnRIP, size: 8)
        if let code = event.errorCode { try stack.push(UInt64(code), size: 8) }
        let oldCPL = cpl
        try enterCode(selector, descriptor, target, cpl: newCPL, fault: ext)
        if newCPL != oldCPL { setSegment(SegmentRegister.ss, nullStack(newCPL)) }
        stack.commit()
        clearFlags(gate)
        updateMode()
    }

    /// Protected mode and VM86 (section 6.12).
    func enterLegacy(_ event: Event) throws(Fault) {
        let gate = try readGate(event, size: 8)
        if gate.type == SystemType.taskGate { return try enterTask(gate, event) }
        let selector = gate.gateSelector
        let descriptor = try handlerSegment(selector, event)
        let isWide = gate.type & 8 != 0
        let size = isWide ? 4 : 2
        let target = isWide ? gate.gateOffset32 : gate.gateOffset16
        let ext = event.kind.ext
        let wasVM86 = isVM86
        if wasVM86 && (descriptor.isConforming || descriptor.dpl != 0) {
            throw .generalProtection((selector & ~3) | ext)
        }
        let isInner = !descriptor.isConforming && descriptor.dpl < cpl
        let newCPL = isInner ? descriptor.dpl : cpl
        var stack: Stack
        var newSegment = segment(SegmentRegister.ss)
        if isInner {
            (stack, newSegment) = try innerStack(newCPL, ext: ext)
            try saveOuterSegments(&stack, size: size)
        } else {
            stack = Stack(current: self)
        }
        try stack.push(savedFlags(event), size: size)
        try stack.push(UInt64(segment(SegmentRegister.cs).selector), size: size)
        try stack.push(event.returnRIP, size: size)
        if let code = event.errorCode { try stack.push(UInt64(code), size: size) }
        if target > UInt64(descriptor.limit) { throw .generalProtection(ext) }
        try enterCode(selector, descriptor, target, cpl: newCPL, fault: ext)
        clearFlags(gate)
        setSegment(SegmentRegister.ss, newSegment)
        if wasVM86 { dropDataSegments() }
        stack.commit()
        updateMode()
    }

    /// What is saved besides if the privilege changes: the outer stack, and the data segments of
    /// VM86.
    private func saveOuterSegments(_ stack: inout Stack, size: Int) throws(Fault) {
        if isVM86 {
            for register in [
                SegmentRegister.gs, SegmentRegister.fs, SegmentRegister.ds, SegmentRegister.es,
            ] {
                try stack.push(UInt64(segment(register).selector), size: size)
            }
        }
        try stack.push(UInt64(segment(SegmentRegister.ss).selector), size: size)
        try stack.push(self[4], size: size)
    }

    /// VM86's data segments mean nothing outside of it.
    private func dropDataSegments() {
        for register in [
            SegmentRegister.es, SegmentRegister.ds, SegmentRegister.fs, SegmentRegister.gs,
        ] {
            setSegment(register, Segment(selector: 0, attributes: Segment.unusable))
        }
    }

    private func enterTask(_ gate: Descriptor, _ event: Event) throws(Fault) {
        let ext = event.kind.ext
        let selector = gate.gateSelector
        let descriptor = try taskDescriptor(selector, ext: ext) { .generalProtection($0) }
        try switchTask(selector, descriptor, .interrupt, nextRIP: event.returnRIP, ext: ext)
        if let code = event.errorCode {
            let size = segment(SegmentRegister.tr).type & 8 != 0 ? 4 : 2
            var stack = Stack(current: self)
            try stack.push(UInt64(code), size: size)
            stack.commit()
        }
    }
}
