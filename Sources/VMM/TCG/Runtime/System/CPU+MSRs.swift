// Model-specific registers (SDM volume 4; AMD volume 2, appendix A). An unknown one is #GP(0).

extension CPU {
    func readMSR() throws(Fault) {
        try requireSupervisor()
        let value = try msr(UInt32(truncatingIfNeeded: self[1]))
        self[0] = value & 0xFFFF_FFFF
        self[2] = value >> 32
    }

    func writeMSR() throws(Fault) {
        try requireSupervisor()
        let value = (self[0] & 0xFFFF_FFFF) | self[2] << 32
        try setMSR(UInt32(truncatingIfNeeded: self[1]), value)
    }

    func msr(_ number: UInt32) throws(Fault) -> UInt64 {
        switch number {
        case 0x10: return readTimestamp()
        case 0x1B: return owner.apic.base
        case 0x3B: return fields.tscAdjust
        case 0x8B: return 0x0B00_2116  // The microcode's version.
        case 0xFE: return 0x508  // MTRRs: 8 variable, fixed ones, WC.
        case 0x179: return 0  // Machine checks: no banks.
        case 0x174: return fields.sysenterCS
        case 0x175: return fields.sysenterESP
        case 0x176: return fields.sysenterEIP
        case 0x1A0: return owner.msrs.miscellaneousEnable
        case 0x1D9: return owner.msrs.debugControl
        case 0x1DB...0x1DE: return 0  // Last branches.
        case 0x200...0x20F: return owner.msrs.variableRanges[Int(number - 0x200)]
        case 0x277: return fields.pat
        case 0x2FF: return owner.msrs.defaultType
        case 0x6E0: return timerDeadline()
        case 0x800...0x8FF: return try readX2APIC(number - 0x800)
        case 0xC000_0080: return fields.efer
        case 0xC000_0081: return fields.star
        case 0xC000_0082: return fields.lstar
        case 0xC000_0083: return fields.cstar
        case 0xC000_0084: return fields.sfmask
        case 0xC000_0100: return segment(SegmentRegister.fs).base
        case 0xC000_0101: return segment(SegmentRegister.gs).base
        case 0xC000_0102: return fields.kernelGSBase
        case 0xC000_0103: return fields.tscAux
        case 0x11, 0x4B56_4D00: return owner.msrs.wallClock
        case 0x12, 0x4B56_4D01: return owner.msrs.clock
        // AMD's first performance counters exist whatever CPUID says; these count nothing.
        case 0xC001_0000...0xC001_0007: return 0
        case 0xC001_0010: return owner.msrs.systemConfiguration
        case 0xC001_0015: return owner.msrs.hardwareConfiguration
        case 0xC001_001F: return owner.msrs.northBridge
        case 0xC001_0055: return 0
        case 0xC001_1020: return owner.msrs.loadStoreConfiguration
        case 0xC001_1029: return owner.msrs.decodeConfiguration
        default:
            if let index = MSRStore.fixedNumbers.firstIndex(of: number) {
                return owner.msrs.fixedRanges[index]
            }
            throw .generalProtection(0)
        }
    }

    func setMSR(_ number: UInt32, _ value: UInt64) throws(Fault) {
        switch number {
        case 0x10: setTimestampOffset(fields.tscAdjust &+ (value &- readTimestamp()))
        case 0x1B: try writeAPICBase(value)
        case 0x3B: setTimestampOffset(value)
        case 0x79, 0x8B: break  // Microcode updates have no effect.
        case 0x174: fields.sysenterCS = value & 0xFFFF_FFFF
        case 0x175: fields.sysenterESP = try canonical(value)
        case 0x176: fields.sysenterEIP = try canonical(value)
        case 0x1A0: try setMiscellaneousEnable(value)
        case 0x1D9: owner.msrs.debugControl = value & 3
        case 0x200...0x20F, 0x250...0x26F, 0x2FF: try setMemoryType(number, value)
        case 0x277:
            guard MSRStore.areMemoryTypes(value, inPAT: true) else { throw .generalProtection(0) }
            fields.pat = value
        case 0x6E0: setTimerDeadline(value)
        case 0x800...0x8FF: try writeX2APIC(number - 0x800, value)
        case 0xC000_0080: try writeEFER(value)
        case 0xC000_0081: fields.star = value
        case 0xC000_0082: fields.lstar = try canonical(value)
        case 0xC000_0083: fields.cstar = try canonical(value)
        case 0xC000_0084: fields.sfmask = value & 0xFFFF_FFFF
        case 0xC000_0100: try setSegmentBase(SegmentRegister.fs, value)
        case 0xC000_0101: try setSegmentBase(SegmentRegister.gs, value)
        case 0xC000_0102: fields.kernelGSBase = try canonical(value)
        case 0xC000_0103: fields.tscAux = value & 0xFFFF_FFFF
        default: try setPlatformMSR(number, value)
        }
    }

    private func setPlatformMSR(_ number: UInt32, _ value: UInt64) throws(Fault) {
        let owner = owner
        switch number {
        case 0x11, 0x4B56_4D00:
            owner.msrs.wallClock = value
            writeWallClock(value)
        case 0x12, 0x4B56_4D01:
            owner.msrs.clock = value
            if value & 1 != 0 { writeClockPage(value & ~1) }
        case 0xC001_0000...0xC001_0007: break
        case 0xC001_0010: owner.msrs.systemConfiguration = value
        case 0xC001_0015: owner.msrs.hardwareConfiguration = value | 1 << 24
        case 0xC001_001F: owner.msrs.northBridge = value
        case 0xC001_0055: break
        case 0xC001_1020: owner.msrs.loadStoreConfiguration = value
        case 0xC001_1029: owner.msrs.decodeConfiguration = value
        default: throw .generalProtection(0)
        }
    }

    /// Intel's IA32_MISC_ENABLE, which software looks for whatever the vendor is (KVM has it on AMD's
    /// processors as well): kept, without effect. Performance monitoring (7), and that there are
    /// neither branch traces nor event sampling (11, 12), is not to be changed.
    private func setMiscellaneousEnable(_ value: UInt64) throws(Fault) {
        let kept: UInt64 = 0x1880
        if value & ~(0x4_00C5_0809 | kept) != 0 { throw .generalProtection(0) }
        owner.msrs.miscellaneousEnable = value & ~kept | owner.msrs.miscellaneousEnable & kept
    }

    private func canonical(_ value: UInt64) throws(Fault) -> UInt64 {
        if !isCanonical(value) { throw .generalProtection(0) }
        return value
    }

    private func timerDeadline() -> UInt64 {
        owner.apic.with { $0.timer.mode == .deadline && $0.timer.deadline != UInt64.max }
            ? owner.msrs.deadline : 0
    }

    /// MTRRs (SDM volume 3, section 12.11.2).
    private func setMemoryType(_ number: UInt32, _ value: UInt64) throws(Fault) {
        let owner = owner
        let address = PageEntry.address
        if number == 0x2FF {
            guard value & ~0xCFF == 0, MSRStore.isMemoryType(value & 0xFF, inPAT: false) else {
                throw .generalProtection(0)
            }
            owner.msrs.defaultType = value
        } else if number <= 0x20F {
            let isMask = number & 1 != 0
            let isValid =
                isMask
                ? value & ~(address | 1 << 11) == 0
                : value & ~(address | 0xFF) == 0
                    && MSRStore.isMemoryType(value & 0xFF, inPAT: false)
            guard isValid else { throw .generalProtection(0) }
            owner.msrs.variableRanges[Int(number - 0x200)] = value
        } else {
            guard let index = MSRStore.fixedNumbers.firstIndex(of: number),
                MSRStore.areMemoryTypes(value, inPAT: false)
            else { throw .generalProtection(0) }
            owner.msrs.fixedRanges[index] = value
        }
    }
}
