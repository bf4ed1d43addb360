public import Accelerator
internal import CLinux
internal import Core

// The states in which a CPU starts.

extension KVMVCPU {
    private enum MSR {
        static let timestamp: UInt32 = 0x10
        static let timestampAdjust: UInt32 = 0x3b
        static let memoryTypeDefault: UInt32 = 0x2ff
        /// The fixed ranges (SDM volume 3, section 12.11.2.2).
        static let memoryTypesFixed: [UInt32] = [
            0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
        ]
    }

    public func setInitialState(_ initial: InitialCPUState) {
        counters = Counters()
        var state = powerOn
        // Time does not go back.
        state.modelSpecific.removeAll {
            $0.number == MSR.timestamp || $0.number == MSR.timestampAdjust
        }
        switch initial {
        case .reset: break
        case .linux64(let entry, let parameters, let pageTables, let gdt, let stack):
            enterFlat(&state, entry: entry, gdt: gdt, .bits64)
            state.registers.value.rsi = parameters
            state.registers.value.rsp = stack
            state.system.value.cr4 = 1 << 5 | 1 << 7  // PAE, PGE
            state.system.value.cr3 = pageTables
            state.system.value.efer = 1 << 0 | 1 << 8 | 1 << 10 | 1 << 11  // SCE, LME, LMA, NXE
            state.system.value.cr0 = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31  // PE ET NE WP PG
        case .pvh(let entry, let startInfo, let gdt):
            enterFlat(&state, entry: UInt64(entry), gdt: gdt, .bits32)
            state.registers.value.rbx = UInt64(startInfo)
            state.system.value.cr0 = 1 << 0 | 1 << 4  // PE, ET
        case .multiboot(let entry, let information, let gdt):
            enterFlat(&state, entry: UInt64(entry), gdt: gdt, .bits32)
            state.registers.value.rax = UInt64(InitialCPUState.multibootMagic)
            state.registers.value.rbx = UInt64(information)
            state.system.value.cr0 = 1 << 0 | 1 << 4  // PE, ET
        }
        do {
            try setState(state)
        } catch {
            // The CPU could be set to this state when it was made; the guest will not get far.
            KVMVirtualMachine.log(.error, "\(error)")
        }
    }

    private enum CodeSize { case bits32, bits64 }

    /// Flat segments as the boot protocols want them (code at 0x10, data at 0x18), and the memory
    /// types that firmware would have set up.
    private func enterFlat(
        _ state: inout KVMVCPUState, entry: UInt64, gdt: InitialCPUState.DescriptorTable,
        _ size: CodeSize
    ) {
        state.activity = UInt32(KVM_MP_STATE_RUNNABLE)
        state.registers.value = kvm_regs()
        state.registers.value.rip = entry
        state.registers.value.rflags = 2
        var data = kvm_segment()
        data.limit = UInt32.max
        data.selector = 0x18
        data.type = 3
        data.present = 1
        data.s = 1
        data.db = 1
        data.g = 1
        var code = data
        code.selector = 0x10
        code.type = 11
        code.db = size == .bits32 ? 1 : 0
        code.l = size == .bits64 ? 1 : 0
        var task = kvm_segment()
        task.limit = 0x67
        task.type = 11
        task.present = 1
        state.system.value.cs = code
        state.system.value.ds = data
        state.system.value.es = data
        state.system.value.fs = data
        state.system.value.gs = data
        state.system.value.ss = data
        state.system.value.tr = task
        state.system.value.gdt = kvm_dtable(base: gdt.base, limit: gdt.limit, padding: (0, 0, 0))
        state.system.value.idt = kvm_dtable()
        state.modelSpecific.append(.init(number: MSR.memoryTypeDefault, value: 0xc06))
        for number in MSR.memoryTypesFixed {
            state.modelSpecific.append(.init(number: number, value: 0x0606_0606_0606_0606))
        }
    }
}
