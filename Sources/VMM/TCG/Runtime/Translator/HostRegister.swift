/// Numbers of the host's general registers, as instructions encode them.
enum HostRegister {
    static let rax: UInt8 = 0
    static let rcx: UInt8 = 1
    static let rdx: UInt8 = 2
    static let rbx: UInt8 = 3
    /// The host's stack, and what the CPU's state is addressed with.
    static let rsp: UInt8 = 4
    static let rbp: UInt8 = 5
    static let rsi: UInt8 = 6
    static let rdi: UInt8 = 7
    /// Free for each instruction's use. The guest's own are in memory.
    static let first: UInt8 = 9
    static let second: UInt8 = 10
    /// The guest's RSP.
    static let guestRSP: UInt8 = 15
    /// The guest's R15, which programs use more than R11.
    static let guestR15: UInt8 = 11

    /// The guest's registers that have no host register.
    static func isInMemory(_ guest: UInt8) -> Bool { guest >= 9 && guest <= 11 }

    /// The host register of a guest register that has one.
    static func of(_ guest: UInt8) -> UInt8 {
        guest == 4 ? guestRSP : guest == 15 ? guestR15 : guest
    }

    /// The guest registers that are in host registers while translated code runs.
    static let mapped: [UInt8] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14, 15]
}

/// `[base + index << scale + displacement]` on the host.
struct HostMemory {
    var base: UInt8
    var index: UInt8?
    var scale: UInt8 = 0
    var displacement: Int32 = 0

    init(_ base: UInt8, _ displacement: Int32 = 0) {
        self.base = base
        self.displacement = displacement
    }

    init(_ base: UInt8, index: UInt8?, scale: UInt8, _ displacement: Int32) {
        self.base = base
        self.index = index
        self.scale = scale
        self.displacement = displacement
    }

    func advanced(by distance: Int32) -> HostMemory {
        HostMemory(base, index: index, scale: scale, displacement + distance)
    }
}
