// Hardware task switches (SDM volume 3, chapter 8). Only outside long mode.

/// What asks for a task switch.
enum TaskSwitchKind {
    case jump
    case call
    /// An interrupt or exception through a task gate; its error code is pushed by the caller.
    case interrupt
    /// IRET with NT set.
    case interruptReturn
}

/// Where a TSS keeps what (figures 8-2 and 8-10).
private struct TaskLayout {
    let isWide: Bool
    /// Bytes up to the end of the fixed part.
    var size: UInt64 { isWide ? 104 : 44 }
    var valueSize: UInt64 { isWide ? 4 : 2 }
    var cr3: UInt64 { 28 }
    var ip: UInt64 { isWide ? 32 : 14 }
    var flags: UInt64 { isWide ? 36 : 16 }
    var registers: UInt64 { isWide ? 40 : 18 }
    var segments: UInt64 { isWide ? 72 : 34 }
    var segmentCount: Int { isWide ? 6 : 4 }
    var segmentStride: UInt64 { isWide ? 4 : 2 }
    var ldt: UInt64 { isWide ? 96 : 42 }
}

extension CPU {
    /// The descriptor of an available TSS that a task gate names.
    func taskDescriptor(
        _ selector: UInt16, ext: UInt16 = 0, _ fault: (UInt16) -> Fault
    ) throws(Fault) -> Descriptor {
        let code = (selector & ~3) | ext
        guard selector & ~3 != 0, selector & 4 == 0, let descriptor = try readDescriptor(selector),
            !descriptor.isCodeOrData,
            descriptor.type == SystemType.tss || descriptor.type == SystemType.tss16
        else { throw fault(code) }
        guard descriptor.isPresent else { throw .segmentNotPresent(code) }
        return descriptor
    }

    /// Leaves the current task and enters another. `nextRIP` is where the old one goes on.
    func switchTask(
        _ selector: UInt16, _ descriptor: Descriptor, _ kind: TaskSwitchKind, nextRIP: UInt64,
        ext: UInt16 = 0
    ) throws(Fault) {
        let new = TaskLayout(isWide: descriptor.type & 8 != 0)
        guard UInt64(descriptor.limit) >= new.size - 1 else {
            throw .invalidTSS((selector & ~3) | ext)
        }
        let oldTask = segment(SegmentRegister.tr)
        let old = TaskLayout(isWide: oldTask.type & 8 != 0)
        // All of the old TSS that is written must be writable before anything changes.
        try probeSupervisorWrite(oldTask.base, size: Int(old.size), mode: implicitMode)
        try probeSupervisorWrite(descriptor.base, size: Int(new.size), mode: implicitMode)
        let image = try readTask(descriptor.base, new)

        if kind == .jump || kind == .interruptReturn { try setBusy(oldTask.selector, false) }
        var flags = rflags
        if kind == .interruptReturn { flags &= ~RFLAGS.nt }
        try saveTask(oldTask.base, old, flags: flags, nextRIP: nextRIP)
        if kind == .call || kind == .interrupt {
            try storeSupervisor(descriptor.base, oldTask.selector)
        }
        if kind != .interruptReturn { try setBusy(selector, true) }

        fields.cr0 |= CR0.ts
        var task = descriptor.segment(selector)
        task.attributes |= 2
        setSegment(SegmentRegister.tr, task)
        let isNested = kind == .call || kind == .interrupt
        try enterTask(image, new, nested: isNested, ext: ext)
    }

    private struct TaskImage {
        var cr3: UInt64 = 0
        var ip: UInt64 = 0
        var flags: UInt64 = 0
        var registers = InlineArray<8, UInt64>(repeating: 0)
        var segments = InlineArray<6, UInt16>(repeating: 0)
        var ldt: UInt16 = 0
        var hasTrap = false
    }

    private func readTask(_ base: UInt64, _ layout: TaskLayout) throws(Fault) -> TaskImage {
        var image = TaskImage()
        let size = Int(layout.valueSize)
        let mode = implicitMode
        image.ip = try load(base &+ layout.ip, size: size, mode: mode, mask: linearMask)
        image.flags = try load(base &+ layout.flags, size: size, mode: mode, mask: linearMask)
        for number in 0..<8 {
            let place = base &+ layout.registers &+ UInt64(number) * layout.valueSize
            image.registers[number] = try load(place, size: size, mode: mode, mask: linearMask)
            if !layout.isWide { image.registers[number] |= 0xFFFF_0000 }
        }
        for number in 0..<layout.segmentCount {
            let place = base &+ layout.segments &+ UInt64(number) * layout.segmentStride
            image.segments[number] = try loadSupervisor(place, as: UInt16.self)
        }
        image.ldt = try loadSupervisor(base &+ layout.ldt, as: UInt16.self)
        if layout.isWide {
            image.cr3 = try load(base &+ layout.cr3, size: 4, mode: mode, mask: linearMask)
            image.hasTrap = try loadSupervisor(base &+ 100, as: UInt16.self) & 1 != 0
        }
        return image
    }

    private func saveTask(
        _ base: UInt64, _ layout: TaskLayout, flags: UInt64, nextRIP: UInt64
    ) throws(Fault) {
        let size = Int(layout.valueSize)
        let mode = implicitMode
        try store(base &+ layout.ip, size: size, nextRIP, mode: mode, mask: linearMask)
        try store(base &+ layout.flags, size: size, flags, mode: mode, mask: linearMask)
        for number in 0..<8 {
            let place = base &+ layout.registers &+ UInt64(number) * layout.valueSize
            try store(place, size: size, self[UInt8(number)], mode: mode, mask: linearMask)
        }
        for number in 0..<layout.segmentCount {
            let place = base &+ layout.segments &+ UInt64(number) * layout.segmentStride
            try storeSupervisor(place, segment(UInt8(number)).selector)
        }
    }

    /// The new task's state is loaded; faults from here on happen in the new task.
    private func enterTask(
        _ image: TaskImage, _ layout: TaskLayout, nested: Bool, ext: UInt16
    ) throws(Fault) {
        if layout.isWide && fields.cr0 & CR0.pg != 0 { try loadCR3(image.cr3) }
        rip = image.ip
        for number in 0..<8 { self[UInt8(number)] = image.registers[number] }
        var flags = image.flags & 0x3F_7FD7
        if !layout.isWide { flags &= 0xFFFF }
        if nested { flags |= RFLAGS.nt }
        setFlags(flags)
        // Selectors first: a fault finds them in place, without usable contents.
        for number in 0..<6 {
            setSegment(
                UInt8(number),
                Segment(selector: image.segments[number], attributes: Segment.unusable))
        }
        fields.cpl = isVM86 ? 3 : UInt8(image.segments[Int(SegmentRegister.cs)] & 3)
        updateMode()
        fields.debugRegisters[7] &= ~0x155
        try loadTaskLDT(image.ldt, ext)
        if isVM86 {
            for number in 0..<6 {
                loadRealSegment(UInt8(number), selector: image.segments[number])
            }
        } else {
            try loadTaskSegments(image, ext)
        }
        updateMode()
        if rip > UInt64(segment(SegmentRegister.cs).limit) { throw .generalProtection(ext) }
        if image.hasTrap {
            fields.pendingDebug |= DR6.bt
            requestService()
        }
    }

    private func loadTaskLDT(_ selector: UInt16, _ ext: UInt16) throws(Fault) {
        let register = SegmentRegister.ldtr
        setSegment(register, Segment(selector: selector, attributes: Segment.unusable))
        if selector & ~3 == 0 { return }
        let code = (selector & ~3) | ext
        guard selector & 4 == 0, let descriptor = try readDescriptor(selector),
            !descriptor.isCodeOrData, descriptor.type == SystemType.ldt, descriptor.isPresent
        else { throw .invalidTSS(code) }
        setSegment(register, descriptor.segment(selector))
    }

    /// Segment registers of a task in protected mode; all that is wrong is #TS.
    private func loadTaskSegments(_ image: TaskImage, _ ext: UInt16) throws(Fault) {
        let code = image.segments[Int(SegmentRegister.cs)]
        let stack = image.segments[Int(SegmentRegister.ss)]
        guard code & ~3 != 0, let descriptor = try readDescriptor(code), descriptor.isCode,
            descriptor.isConforming ? descriptor.dpl <= cpl : descriptor.dpl == cpl
        else { throw .invalidTSS((code & ~3) | ext) }
        guard descriptor.isPresent else { throw .segmentNotPresent((code & ~3) | ext) }
        if stack & ~3 == 0 { throw .invalidTSS(ext) }
        let stackSegment = try stackSegment(stack, cpl: cpl, ext: ext) { .invalidTSS($0) }
        setSegment(SegmentRegister.ss, stackSegment)
        let marked = try markAccessed(code, descriptor)
        setSegment(SegmentRegister.cs, marked.segment(code))
        for number in [
            SegmentRegister.es, SegmentRegister.ds, SegmentRegister.fs,
            SegmentRegister.gs,
        ] {
            let selector = image.segments[Int(number)]
            if selector & ~3 == 0 { continue }
            do {
                try loadSegment(number, selector: selector)
            } catch {
                if error.vector == 13 { throw .invalidTSS((selector & ~3) | ext) }
                throw error
            }
        }
    }
}
