/// Bits of CR0 (SDM volume 3, section 2.5).
enum CR0 {
    static let pe: UInt64 = 1 << 0
    static let mp: UInt64 = 1 << 1
    static let em: UInt64 = 1 << 2
    static let ts: UInt64 = 1 << 3
    static let et: UInt64 = 1 << 4
    static let ne: UInt64 = 1 << 5
    static let wp: UInt64 = 1 << 16
    static let am: UInt64 = 1 << 18
    static let nw: UInt64 = 1 << 29
    static let cd: UInt64 = 1 << 30
    static let pg: UInt64 = 1 << 31

    static let defined = pe | mp | em | ts | et | ne | wp | am | nw | cd | pg
}

/// Bits of CR4 (SDM volume 3, section 2.5).
enum CR4 {
    static let vme: UInt64 = 1 << 0
    static let pvi: UInt64 = 1 << 1
    static let tsd: UInt64 = 1 << 2
    static let de: UInt64 = 1 << 3
    static let pse: UInt64 = 1 << 4
    static let pae: UInt64 = 1 << 5
    static let mce: UInt64 = 1 << 6
    static let pge: UInt64 = 1 << 7
    static let pce: UInt64 = 1 << 8
    static let osfxsr: UInt64 = 1 << 9
    static let osxmmexcpt: UInt64 = 1 << 10
    static let umip: UInt64 = 1 << 11
    static let fsgsbase: UInt64 = 1 << 16
    static let pcide: UInt64 = 1 << 17
    static let osxsave: UInt64 = 1 << 18
    static let smep: UInt64 = 1 << 20
    static let smap: UInt64 = 1 << 21
    static let pke: UInt64 = 1 << 22

    /// What CPUID offers in any case; everything else is reserved, but for OSXSAVE where there are
    /// YMM registers.
    static let supported =
        vme | pvi | tsd | de | pse | pae | pge | pce | osfxsr | osxmmexcpt | umip | fsgsbase
        | pcide | smep | smap
    /// What another provider's guests may have set: nothing else changes what an instruction does
    /// here, or who may touch which address.
    static let borrowable = supported | osxsave | mce | pke
}

/// Bits of EFER (SDM volume 3, section 2.2.1).
enum EFER {
    static let sce: UInt64 = 1 << 0
    static let lme: UInt64 = 1 << 8
    static let lma: UInt64 = 1 << 10
    static let nxe: UInt64 = 1 << 11
    /// AMD's translation cache extension: less need be flushed.
    static let tce: UInt64 = 1 << 15
    /// AMD's automatic IBRS: nothing to do here, but it spares the guest its retpolines.
    static let automaticIBRS: UInt64 = 1 << 21

    static let supported = sce | lme | lma | nxe | automaticIBRS
    static let borrowable = supported | tce
}
