// Register accesses, by the numbers of the x2APIC MSRs: an xAPIC register's offset / 16.

/// What the caller must do after a register write, when no lock is held.
enum APICAction: Sendable {
    case none
    /// The register does not exist or is read-only: #GP for an MSR.
    case illegal
    case endOfInterrupt(UInt8)
    case send(UInt64)
}

enum APICRegister {
    static let id: UInt32 = 0x02
    static let version: UInt32 = 0x03
    static let taskPriority: UInt32 = 0x08
    static let arbitrationPriority: UInt32 = 0x09
    static let processorPriority: UInt32 = 0x0A
    static let endOfInterrupt: UInt32 = 0x0B
    static let remoteRead: UInt32 = 0x0C
    static let logicalDestination: UInt32 = 0x0D
    static let destinationFormat: UInt32 = 0x0E
    static let spurious: UInt32 = 0x0F
    static let inService: UInt32 = 0x10
    static let triggerMode: UInt32 = 0x18
    static let request: UInt32 = 0x20
    static let errorStatus: UInt32 = 0x28
    static let command: UInt32 = 0x30
    static let commandHigh: UInt32 = 0x31
    static let timer: UInt32 = 0x32
    static let error: UInt32 = 0x37
    static let initialCount: UInt32 = 0x38
    static let currentCount: UInt32 = 0x39
    static let divide: UInt32 = 0x3E
    static let selfIPI: UInt32 = 0x3F
}

extension APICRegisters {
    /// Integrated APIC, six LVT entries.
    private static let version: UInt32 = 0x0005_0014

    /// Writable bits of the LVT entries, in their order.
    private static func writable(_ entry: Int) -> UInt32 {
        switch entry {
        case LocalVector.timer: 0x7_00FF
        case LocalVector.lint0, LocalVector.lint1: 0x1_A7FF
        case LocalVector.error: 0x1_00FF
        default: 0x1_07FF
        }
    }

    /// Reads a register; `nil` if it does not exist.
    func read(_ register: UInt32, now: UInt64) -> UInt64? {
        switch register {
        case APICRegister.id: return UInt64(isX2 ? id : id << 24)
        case APICRegister.version: return UInt64(Self.version)
        case APICRegister.taskPriority: return UInt64(taskPriority)
        case APICRegister.arbitrationPriority where !isX2: return UInt64(processorPriority)
        case APICRegister.processorPriority: return UInt64(processorPriority)
        case APICRegister.remoteRead where !isX2: return 0
        case APICRegister.logicalDestination: return UInt64(logicalDestination)
        case APICRegister.destinationFormat where !isX2: return UInt64(destinationFormat)
        case APICRegister.spurious: return UInt64(spurious)
        case 0x10...0x17: return UInt64(inService.register(register & 7))
        case 0x18...0x1F: return UInt64(triggerMode.register(register & 7))
        case 0x20...0x27: return UInt64(requested.register(register & 7))
        case APICRegister.errorStatus: return UInt64(shownErrors)
        case APICRegister.command: return isX2 ? command : command & 0xFFFF_FFFF
        case APICRegister.commandHigh where !isX2: return command >> 32
        case APICRegister.timer...APICRegister.error:
            return UInt64(localVectors[Int(register - APICRegister.timer)])
        case APICRegister.initialCount: return UInt64(timer.initialCount)
        case APICRegister.currentCount: return UInt64(timer.currentCount(now))
        case APICRegister.divide: return UInt64(timer.divideConfiguration)
        default: return nil
        }
    }

    /// Writes a register.
    mutating func write(_ register: UInt32, _ value: UInt64, now: UInt64) -> APICAction {
        let word = UInt32(truncatingIfNeeded: value)
        if isX2 && !isValidX2(register, value) { return .illegal }
        switch register {
        case APICRegister.id where !isX2: break  // The id is fixed.
        case APICRegister.taskPriority: taskPriority = UInt8(truncatingIfNeeded: word)
        case APICRegister.endOfInterrupt:
            if let vector = endInterrupt() { return .endOfInterrupt(vector) }
        case APICRegister.logicalDestination where !isX2:
            logicalDestination = word & 0xFF00_0000
        case APICRegister.destinationFormat where !isX2: destinationFormat = word | 0x0FFF_FFFF
        case APICRegister.spurious: writeSpurious(word)
        case APICRegister.errorStatus:
            shownErrors = newErrors
            newErrors = 0
        case APICRegister.command:
            let high = isX2 ? value : command & 0xFFFF_FFFF_0000_0000
            command = (high & 0xFFFF_FFFF_0000_0000) | UInt64(word & ~0x1000)
            return .send(command)
        case APICRegister.commandHigh where !isX2:
            command = (command & 0xFFFF_FFFF) | UInt64(word & 0xFF00_0000) << 32
        case APICRegister.timer...APICRegister.error:
            // What the timer owes, it owes in its old mode.
            if register == APICRegister.timer { fireTimer(now) }
            writeLocalVector(Int(register - APICRegister.timer), word)
        case APICRegister.initialCount: timer.setInitialCount(word, now: now)
        case APICRegister.divide: timer.setDivideConfiguration(word, now: now)
        case APICRegister.selfIPI where isX2: return .send(UInt64(word & 0xFF) | 1 << 18)
        default: return .illegal
        }
        return .none
    }

    /// Reserved bits of x2APIC registers must be zero.
    private func isValidX2(_ register: UInt32, _ value: UInt64) -> Bool {
        switch register {
        case APICRegister.command: return value & 0xFFF3_2000 == 0
        case APICRegister.endOfInterrupt, APICRegister.errorStatus: return value == 0
        case APICRegister.taskPriority, APICRegister.selfIPI: return value >> 8 == 0
        case APICRegister.spurious: return value >> 10 == 0
        case APICRegister.timer...APICRegister.error:
            let entry = Int(register - APICRegister.timer)
            // Delivery status and remote IRR are read-only, not reserved.
            return value & ~UInt64(Self.writable(entry) | 0x5000) == 0
        case APICRegister.divide: return value & ~0xB == 0
        default: return value >> 32 == 0
        }
    }

    private mutating func writeSpurious(_ value: UInt32) {
        spurious = value & 0x3FF
        if spurious & 0x100 != 0 { return }
        for entry in 0..<6 { localVectors[entry] |= LocalVector.masked }
    }

    private mutating func writeLocalVector(_ entry: Int, _ value: UInt32) {
        var value = value & Self.writable(entry)
        if spurious & 0x100 == 0 { value |= LocalVector.masked }
        localVectors[entry] = value
        if entry == LocalVector.timer {
            timer.setMode(APICTimer.Mode(rawValue: (value >> 17) & 3) ?? .oneShot)
        }
    }
}
