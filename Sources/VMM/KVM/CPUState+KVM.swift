internal import Accelerator
internal import CLinux

// A CPU's state between KVM's structures and ours.

extension CPUState {
    mutating func take(_ r: kvm_regs) {
        registers = [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
            r.r13, r.r14, r.r15,
        ]
        rip = r.rip
        rflags = r.rflags
    }

    func give(_ r: inout kvm_regs) {
        r = kvm_regs(
            rax: registers[0], rbx: registers[3], rcx: registers[1], rdx: registers[2],
            rsi: registers[6], rdi: registers[7], rsp: registers[4], rbp: registers[5],
            r8: registers[8], r9: registers[9], r10: registers[10], r11: registers[11],
            r12: registers[12], r13: registers[13], r14: registers[14], r15: registers[15],
            rip: rip, rflags: rflags)
    }

    mutating func take(_ s: kvm_sregs) {
        segments = [
            Segment(s.es), Segment(s.cs), Segment(s.ss), Segment(s.ds), Segment(s.fs),
            Segment(s.gs), Segment(s.ldt), Segment(s.tr),
        ]
        gdt = .init(base: s.gdt.base, limit: s.gdt.limit)
        idt = .init(base: s.idt.base, limit: s.idt.limit)
        cr0 = s.cr0
        cr2 = s.cr2
        cr3 = s.cr3
        cr4 = s.cr4
        efer = s.efer
    }

    func give(_ s: inout kvm_sregs) {
        segments[0].give(&s.es)
        segments[1].give(&s.cs)
        segments[2].give(&s.ss)
        segments[3].give(&s.ds)
        segments[4].give(&s.fs)
        segments[5].give(&s.gs)
        segments[6].give(&s.ldt)
        segments[7].give(&s.tr)
        s.gdt.base = gdt.base
        s.gdt.limit = gdt.limit
        s.idt.base = idt.base
        s.idt.limit = idt.limit
        s.cr0 = cr0
        s.cr2 = cr2
        s.cr3 = cr3
        s.cr4 = cr4
        s.efer = efer
    }

    /// The model-specific registers that are part of the state, by number.
    subscript(number: UInt32) -> UInt64 {
        get {
            switch number {
            case 0x10: tsc
            case 0x174: sysenterCS
            case 0x175: sysenterESP
            case 0x176: sysenterEIP
            case 0xc000_0081: star
            case 0xc000_0082: lstar
            case 0xc000_0083: cstar
            case 0xc000_0084: sfmask
            case 0xc000_0102: kernelGSBase
            default: tscAux
            }
        }
        set {
            switch number {
            case 0x10: tsc = newValue
            case 0x174: sysenterCS = newValue
            case 0x175: sysenterESP = newValue
            case 0x176: sysenterEIP = newValue
            case 0xc000_0081: star = newValue
            case 0xc000_0082: lstar = newValue
            case 0xc000_0083: cstar = newValue
            case 0xc000_0084: sfmask = newValue
            case 0xc000_0102: kernelGSBase = newValue
            default: tscAux = newValue
            }
        }
    }
}

extension CPUState.Segment {
    init(_ s: kvm_segment) {
        self.init()
        selector = s.selector
        base = s.base
        limit = s.limit
        let low = UInt32(s.type & 15) | UInt32(s.s & 1) << 4 | UInt32(s.dpl & 3) << 5
        let high = UInt32(s.avl & 1) << 12 | UInt32(s.l & 1) << 13 | UInt32(s.db & 1) << 14
        attributes =
            low | UInt32(s.present & 1) << 7 | high | UInt32(s.g & 1) << 15
            | UInt32(s.unusable & 1) << 16
    }

    func give(_ s: inout kvm_segment) {
        func bits(_ shift: UInt32, _ mask: UInt32 = 1) -> UInt8 {
            UInt8((attributes >> shift) & mask)
        }
        s.selector = selector
        s.base = base
        s.limit = limit
        s.type = bits(0, 15)
        s.s = bits(4)
        s.dpl = bits(5, 3)
        s.present = bits(7)
        s.avl = bits(12)
        s.l = bits(13)
        s.db = bits(14)
        s.g = bits(15)
        s.unusable = bits(16)
    }
}
