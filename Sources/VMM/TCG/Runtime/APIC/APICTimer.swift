/// The timer of a local APIC (SDM volume 3, section 11.5.4). Its clock has 1 GHz, like the TSC; all
/// times are guest nanoseconds.
struct APICTimer: Sendable {
    enum Mode: UInt32 {
        case oneShot = 0
        case periodic = 1
        case deadline = 2
    }

    var mode: Mode = .oneShot
    private(set) var initialCount: UInt32 = 0
    /// The divide configuration register.
    private(set) var divideConfiguration: UInt32 = 0
    /// When the count began.
    private var start: UInt64 = 0
    /// When it is due; the largest value when it is not armed.
    private(set) var deadline = UInt64.max

    /// What one count lasts.
    private var divisor: UInt64 {
        let code = (divideConfiguration & 3) | (divideConfiguration >> 1) & 4
        return code == 7 ? 1 : 2 << UInt64(code)
    }

    private var period: UInt64 { UInt64(initialCount) * divisor }

    /// The LVT entry's mode. Going to or from deadline mode disarms.
    mutating func setMode(_ new: Mode) {
        if (mode == .deadline) != (new == .deadline) {
            deadline = UInt64.max
            initialCount = 0
        }
        mode = new
    }

    mutating func setInitialCount(_ count: UInt32, now: UInt64) {
        if mode == .deadline { return }
        initialCount = count
        start = now
        deadline = count == 0 ? UInt64.max : now &+ period
    }

    mutating func setDivideConfiguration(_ value: UInt32, now: UInt64) {
        let left = currentCount(now)
        divideConfiguration = value & 0xB
        if deadline != UInt64.max && mode != .deadline {
            // The rest of the count goes on at the new rate.
            deadline = now &+ UInt64(left) * divisor
            start = deadline &- period
        }
    }

    func currentCount(_ now: UInt64) -> UInt32 {
        guard mode != .deadline, deadline != UInt64.max, deadline > now else { return 0 }
        return UInt32(clamping: (deadline - now + divisor - 1) / divisor)
    }

    /// Arms deadline mode; `nil` disarms.
    mutating func setDeadline(_ time: UInt64?) {
        if mode == .deadline { deadline = time ?? UInt64.max }
    }

    /// Whether the timer was due at `now`; a periodic one is armed again.
    mutating func fire(_ now: UInt64) -> Bool {
        guard deadline <= now else { return false }
        if mode == .periodic && period > 0 {
            // Skip what was missed, but keep the phase.
            deadline &+= period * ((now - deadline) / period + 1)
        } else {
            deadline = UInt64.max
        }
        return true
    }
}
