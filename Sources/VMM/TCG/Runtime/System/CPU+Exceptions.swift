// Delivery of exceptions and interrupts (SDM volume 3, chapter 6).

/// What an event is, as far as its delivery differs.
enum EventKind {
    /// A fault or trap of an instruction.
    case exception
    /// An external interrupt or an NMI: benign whatever its vector is.
    case interrupt
    /// INT n, INT3 and INTO: the gate's DPL is checked, and EXT is clear.
    case software
    /// INT1: an interrupt that the gate's DPL does not stop.
    case int1

    var ext: UInt16 { self == .software ? 0 : 1 }
}

/// One event under delivery.
struct Event {
    var vector: UInt8
    var kind: EventKind
    var errorCode: UInt16?
    /// Where the handler's IRET goes.
    var returnRIP: UInt64
    /// RF in the saved flags.
    var savesRF = false

    /// The error code of a fault that concerns the IDT entry.
    var tableCode: UInt16 { UInt16(vector) << 3 | 2 | kind.ext }
}

extension CPU {
    /// Delivers a fault; `rip` is the faulting instruction's. Handles double and triple faults.
    func deliver(_ fault: Fault) {
        fields.interruptShadow = 0
        if fault.vector == Fault.debug.vector { fields.debugRegisters[7] &= ~DR7.gd }
        let isFault = ![1, 3, 4, 8, 18].contains(fault.vector)
        deliver(
            Event(
                vector: fault.vector, kind: .exception,
                errorCode: fault.hasErrorCode ? fault.errorCode : nil, returnRIP: rip,
                savesRF: isFault))
    }

    /// Delivers an interrupt or NMI between two instructions.
    func deliverInterrupt(_ vector: UInt8) {
        fields.interruptShadow = 0
        deliver(Event(vector: vector, kind: .interrupt, errorCode: nil, returnRIP: rip))
    }

    private func deliver(_ event: Event) {
        var event = event
        while true {
            do {
                return try enter(event)
            } catch {
                guard let next = combine(event, error) else {
                    fields.isShutDown = true
                    return requestService()
                }
                event = next
            }
        }
    }

    /// The rules of double faults (table 6-5); `nil` is a triple fault.
    private func combine(_ first: Event, _ second: Fault) -> Event? {
        var next = Event(
            vector: second.vector, kind: .exception,
            errorCode: second.hasErrorCode ? second.errorCode : nil, returnRIP: rip,
            savesRF: true)
        if first.kind == .exception {
            if first.vector == Fault.doubleFault.vector { return nil }
            let isContributory = CPU.isContributory(second.vector)
            let isPageFault = second.vector == 14
            let doubles =
                first.vector == 14
                ? isContributory || isPageFault
                : CPU.isContributory(first.vector) && isContributory
            if doubles {
                next = Event(vector: 8, kind: .exception, errorCode: 0, returnRIP: rip)
            }
        }
        return next
    }

    private static func isContributory(_ vector: UInt8) -> Bool {
        vector == 0 || (10...13).contains(vector)
    }

    /// INT n, INT3, INTO, INT1. Faults that the delivery itself meets are thrown; `rip` must
    /// still be the instruction's.
    func softwareInterrupt(
        vector: UInt8, nextRIP: UInt64, kind: SoftwareInterruptKind
    ) throws(Fault) {
        let event = Event(
            vector: vector, kind: kind == .int1 ? .int1 : .software, errorCode: nil,
            returnRIP: nextRIP)
        if kind == .int1 && fields.pendingDebug != 0 {
            // A breakpoint that a load of SS held back comes with it, not after it.
            recordDebugException(fields.pendingDebug)
            fields.pendingDebug = 0
        }
        if isVM86 && kind == .int {
            if fields.cr4 & CR4.vme != 0, try !isRedirected(vector) {
                return try enterVirtualHandler(event)
            }
            if iopl < 3 { throw .generalProtection(0) }
        }
        try enter(event)
    }

    private func enter(_ event: Event) throws(Fault) {
        // A handler starts without the single step of what it interrupts.
        fields.stepArmed = false
        if isRealMode {
            try enterReal(event)
        } else if fields.isLongMode {
            try enterLong(event)
        } else {
            try enterLegacy(event)
        }
    }

    func savedFlags(_ event: Event) -> UInt64 {
        event.savesRF ? rflags | RFLAGS.rf : rflags
    }

    // MARK: Real mode

    private func enterReal(_ event: Event) throws(Fault) {
        let offset = UInt64(event.vector) * 4
        if offset + 3 > UInt64(fields.idtr.limit) { throw .generalProtection(event.tableCode) }
        let entry = try loadSupervisor(fields.idtr.base &+ offset, as: UInt32.self)
        try pushRealFrame(event, flags: rflags)
        loadRealSegment(SegmentRegister.cs, selector: UInt16(entry >> 16))
        rip = UInt64(entry & 0xFFFF)
        let cleared = RFLAGS.interruptEnable | RFLAGS.tf | RFLAGS.ac | RFLAGS.rf
        setSystemFlags(fields.systemFlags & ~cleared)
        updateMode()
    }

    private func pushRealFrame(_ event: Event, flags: UInt64) throws(Fault) {
        var stack = Stack(current: self)
        try stack.push(flags & 0xFFFF, size: 2)
        try stack.push(UInt64(segment(SegmentRegister.cs).selector), size: 2)
        try stack.push(event.returnRIP, size: 2)
        stack.commit()
    }

    // MARK: Virtual-8086 mode extensions (SDM volume 3, section 20.3.3)

    /// Whether the TSS's bitmap sends a software interrupt to the protected-mode handler.
    private func isRedirected(_ vector: UInt8) throws(Fault) -> Bool {
        let task = segment(SegmentRegister.tr)
        guard task.isUsable, task.limit >= 103 else { throw .generalProtection(0) }
        let map = UInt64(try loadSupervisor(task.base &+ 102, as: UInt16.self))
        guard map >= 32 else { throw .generalProtection(0) }
        let place = map - 32 + UInt64(vector >> 3)
        if place > UInt64(task.limit) { throw .generalProtection(0) }
        let bits = try loadSupervisor(task.base &+ place, as: UInt8.self)
        return bits & (1 << (vector & 7)) != 0
    }

    /// INT n to the 8086 program's own handler.
    private func enterVirtualHandler(_ event: Event) throws(Fault) {
        let entry = try UInt32(
            truncatingIfNeeded: load(
                UInt64(event.vector) * 4, size: 4, mode: dataMode, mask: linearMask))
        var flags = rflags
        var cleared = RFLAGS.tf | RFLAGS.rf
        if iopl < 3 {
            // IF as the program sees it is VIF; IOPL reads as 3.
            flags &= ~RFLAGS.interruptEnable
            if flags & RFLAGS.vif != 0 { flags |= RFLAGS.interruptEnable }
            flags |= RFLAGS.iopl
            cleared |= RFLAGS.vif
        } else {
            cleared |= RFLAGS.interruptEnable
        }
        try pushRealFrame(event, flags: flags)
        loadRealSegment(SegmentRegister.cs, selector: UInt16(entry >> 16))
        rip = UInt64(entry & 0xFFFF)
        setSystemFlags(fields.systemFlags & ~cleared)
        updateMode()
    }
}
