// Stacks of inner privilege levels, which the TSS names (SDM volume 3, chapter 8).

extension CPU {
    /// The stack that the TSS names for a privilege level, and its segment.
    func innerStack(
        _ level: UInt8, ext: UInt16, table: Int = 0
    ) throws(Fault) -> (Stack, Segment) {
        let task = segment(SegmentRegister.tr)
        let taskCode = (task.selector & ~3) | ext
        if fields.isLongMode {
            // RSP0-2 at 4, IST1-7 at 36 (SDM volume 3, section 8.7).
            let offset = table == 0 ? 4 + 8 * UInt64(level) : 28 + 8 * UInt64(table)
            guard task.isUsable, offset + 7 <= UInt64(task.limit) else {
                throw .invalidTSS(taskCode)
            }
            let pointer = try loadSupervisor(task.base &+ offset, as: UInt64.self)
            let segment = nullStack(level)
            let mode = level == cpl ? dataMode : implicitMode
            if !isCanonical(pointer) { throw .stackFault(ext) }
            return (
                Stack(self, segment, pointer: pointer, isLong: true, mode: mode, code: ext),
                segment
            )
        }
        let (selector, pointer) = try legacyInnerStack(task, level, taskCode)
        if selector & ~3 == 0 { throw .invalidTSS(ext) }
        let segment = try stackSegment(selector, cpl: level, ext: ext) { .invalidTSS($0) }
        return (
            Stack(
                self, segment, pointer: pointer, isLong: false, mode: implicitMode,
                code: (selector & ~3) | ext),
            segment
        )
    }

    private func legacyInnerStack(
        _ task: Segment, _ level: UInt8, _ code: UInt16
    ) throws(Fault) -> (UInt16, UInt64) {
        let isWide = task.type & 8 != 0
        let offset = isWide ? 4 + 8 * UInt64(level) : 2 + 4 * UInt64(level)
        guard task.isUsable, offset + (isWide ? 5 : 3) <= UInt64(task.limit) else {
            throw .invalidTSS(code)
        }
        let place = task.base &+ offset
        if isWide {
            let pointer = try loadSupervisor(place, as: UInt32.self)
            return (try loadSupervisor(place &+ 4, as: UInt16.self), UInt64(pointer))
        }
        let pointer = try loadSupervisor(place, as: UInt16.self)
        return (try loadSupervisor(place &+ 2, as: UInt16.self), UInt64(pointer))
    }
}
