/// A bare guest's program, and what it does under every provider.
struct GuestProgram: Sendable, CustomStringConvertible {
    let name: String
    var cpuCount = 1
    /// What lies in memory beside the program itself.
    var pieces: [GuestCode] = []
    /// Vectors and their handlers.
    var gates: [(vector: UInt8, handler: UInt64)] = []
    var end = GuestMachine.End.powerOff
    var expected = TestSurface.Record()

    var description: String { name }

    private init(_ name: String, _ body: (inout GuestCode, inout GuestProgram) -> Void) {
        self.name = name
        var code = GuestCode()
        body(&code, &self)
        if end == .powerOff { code.end() }
        pieces.append(code)
    }

    private mutating func addHandler(
        _ vector: UInt8, at address: UInt64, _ body: (inout GuestCode) -> Void
    ) {
        var code = GuestCode(at: address)
        body(&code)
        pieces.append(code)
        gates.append((vector, address))
    }

    private mutating func addData(at address: UInt64, _ bytes: [UInt8]) {
        var code = GuestCode(at: address)
        for byte in bytes { code.raw(byte) }
        pieces.append(code)
    }

    /// Counts in EBX, ends the interrupt and returns.
    static func count(_ code: inout GuestCode) {
        code.raw(0xFF, 0xC3)
        code.writeMSR(0x80B, 0)
        code.raw(0x48, 0xCF)
    }

    static let all: [GuestProgram] = [
        ports, deviceMemory, timer, deadline, startUp, message, level, pageFault, tripleFault,
        vectors,
        software, faultInFallback,
    ]

    static let ports = GuestProgram("ports of all sizes, and strings of bytes") { code, program in
        code.raw(0xE5, 0x71)  // in eax, 71
        code.report(.rax)
        code.raw(0xE4, 0x72)  // in al, 72
        code.report(.rax)
        code.raw(0x66, 0xE5, 0x73)  // in ax, 73
        code.report(.rax)
        code.raw(0xE6, 0x80, 0x66, 0xE7, 0x81, 0xE7, 0x82)  // out of al, ax, eax
        code.set(.rsi, 0x7000)
        code.set(.rcx, 3)
        code.set(.rdx, 0x83)
        code.raw(0xF3, 0x6E)  // rep outsb
        code.report(.rcx)
        program.addData(at: 0x7000, [1, 2, 3])
        program.expected.results = [0xA5B6_C771, 0xA5B6_C772, 0xA5B6_C773, 0]
        program.expected.ports = [
            .init(address: 0x80, size: 1, value: 0x73),
            .init(address: 0x81, size: 2, value: 0xC773),
            .init(address: 0x82, size: 4, value: 0xA5B6_C773),
            .init(address: 0x83, size: 1, value: 1), .init(address: 0x83, size: 1, value: 2),
            .init(address: 0x83, size: 1, value: 3),
        ]
    }

    static let deviceMemory = GuestProgram("registers in memory, also misaligned") {
        code, program in
        code.set(.rdi, 0xD000_0010)
        code.raw(0x8B, 0x07)  // mov eax, [rdi]
        code.report(.rax)
        code.raw(0x0F, 0xB6, 0x47, 0x01)  // movzx eax, byte [rdi + 1]
        code.report(.rax)
        code.raw(0x48, 0x8B, 0x07)  // mov rax, [rdi]
        code.raw(0x48, 0xC1, 0xE8, 0x20)  // shr rax, 32
        code.report(.rax)
        code.raw(0x8B, 0x47, 0x01)  // mov eax, [rdi + 1]
        code.report(.rax)
        code.raw(0xC7, 0x07, 0x44, 0x33, 0x22, 0x11)  // mov dword [rdi], 11223344
        code.raw(0xC6, 0x47, 0x05, 0x55)  // mov byte [rdi + 5], 55
        code.set(.rax, 0x1020_3040_5060_7080)
        code.raw(0x48, 0x89, 0x47, 0x08)  // mov [rdi + 8], rax
        code.raw(0x66, 0xC7, 0x47, 0x11, 0x77, 0x66)  // mov word [rdi + 11h], 6677
        program.expected.results = [0x1312_1110, 0x11, 0x1716_1514, 0x1413_1211]
        program.expected.writes = [
            .init(address: 0xD000_0010, size: 4, value: 0x1122_3344),
            .init(address: 0xD000_0015, size: 1, value: 0x55),
            .init(address: 0xD000_0018, size: 8, value: 0x1020_3040_5060_7080),
            .init(address: 0xD000_0021, size: 1, value: 0x77),
            .init(address: 0xD000_0022, size: 1, value: 0x66),
        ]
    }

    static let timer = GuestProgram("the local APIC's timer wakes a halted CPU") { code, program in
        code.loadIDT()
        code.enableAPIC()
        code.writeMSR(0x832, 0x2_0040)  // periodic, vector 40
        code.writeMSR(0x83E, 0xB)  // divide by 1
        code.set(.rbx, 0)
        code.writeMSR(0x838, 1_000_000)
        code.waitForRBX(5)
        code.report(0x71)
        program.addHandler(0x40, at: 0x6000, count)
        program.expected.results = [0x71]
    }

    static let deadline = GuestProgram("the local APIC's timer fires once, and at a TSC value") {
        code, program in
        code.loadIDT()
        code.enableAPIC()
        code.set(.rbx, 0)
        code.writeMSR(0x832, 0x40)  // once
        code.writeMSR(0x83E, 0xB)
        code.writeMSR(0x838, 1_000_000)
        code.waitForRBX(1)
        code.report(.rbx)
        code.writeMSR(0x832, 0x4_0040)
        code.raw(0x0F, 0x31)  // rdtsc
        code.raw(0x05, 0x40, 0x42, 0x0F, 0x00)  // add eax, 1000000
        code.raw(0x83, 0xD2, 0x00)  // adc edx, 0
        code.set(.rcx, 0x6E0)
        code.raw(0x0F, 0x30)  // wrmsr
        code.waitForRBX(2)
        code.report(.rbx)
        program.addHandler(0x40, at: 0x6000, count)
        program.expected.results = [1, 2]
    }

    static let startUp = GuestProgram("INIT and SIPI start a second CPU") { code, program in
        program.cpuCount = 2
        // CPU 1, in real mode: mov word [cs:100], 5A5A; hlt; jmp to it
        program.addData(
            at: 0x8000, [0x2E, 0xC7, 0x06, 0x00, 0x01, 0x5A, 0x5A, 0xF4, 0xEB, 0xFD])
        code.enableAPIC()
        code.writeMSR(0x830, 1 << 32 | 0x4500)
        code.writeMSR(0x830, 1 << 32 | 0x4608)
        code.set(.rdi, 0x8100)
        let top = code.position
        code.raw(0x66, 0x81, 0x3F, 0x5A, 0x5A)  // cmp word [rdi], 5A5A
        code.jump(.notEqual, to: top)
        code.report(0x72)
        program.expected.results = [0x72]
    }

    static let message = GuestProgram("messages interrupt") { code, program in
        code.loadIDT()
        code.enableAPIC()
        code.set(.rbx, 0)
        for count in 1...3 as ClosedRange<UInt32> {
            code.set(.rax, 0x41)
            code.out(TestSurface.actionPort)
            code.waitForRBX(count)
            code.report(.rbx)
        }
        program.addHandler(0x41, at: 0x6000, count)
        program.expected.results = [1, 2, 3]
    }

    static let level = GuestProgram("the end of a level-triggered interrupt is told") {
        code, program in
        code.loadIDT()
        code.enableAPIC()
        code.set(.rbx, 0)
        code.set(.rax, 0xC042)  // level, asserted
        code.out(TestSurface.actionPort)
        code.waitForRBX(1)
        code.set(.rax, 0x43)  // an edge: nobody is told
        code.out(TestSurface.actionPort)
        code.waitForRBX(2)
        code.report(.rbx)
        program.addHandler(0x42, at: 0x6000, count)
        program.addHandler(0x43, at: 0x6100, count)
        program.expected.results = [2]
        program.expected.ends = [0x42]
    }

    /// A page fault's handler that reports error code and address and ends.
    private static func reportPageFault(_ code: inout GuestCode) {
        code.raw(0x58)  // pop rax
        code.report(.rax)
        code.raw(0x0F, 0x20, 0xD0)  // mov rax, cr2
        code.report(.rax)
        code.end()
    }

    static let pageFault = GuestProgram("a page fault reaches its handler") { code, program in
        code.loadIDT()
        code.set(.rdi, 0x1_2345_6000)
        code.raw(0x89, 0x07)  // mov [rdi], eax
        program.addHandler(14, at: 0x6000, reportPageFault)
        program.expected.results = [2, 0x2345_6000]
    }

    static let tripleFault = GuestProgram("a fault without a handler is a triple fault") {
        code, program in
        code.report(0x73)
        program.addData(at: 0x700, [UInt8](repeating: 0, count: 10))
        code.set(.rdi, 0x700)
        code.raw(0x0F, 0x01, 0x1F)  // lidt
        code.set(.rdi, 0x1_2345_6000)
        code.raw(0x89, 0x07)  // mov [rdi], eax
        program.expected.results = [0x73]
        program.end = .tripleFault
    }

    static let vectors = GuestProgram("x87 and SSE instructions") { code, program in
        code.raw(0x0F, 0x20, 0xE0, 0x0D, 0x00, 0x06, 0x00, 0x00, 0x0F, 0x22, 0xE0)  // OSFXSR
        code.raw(0xDB, 0xE3, 0xD9, 0xE8, 0xD9, 0xE8, 0xDE, 0xC1)  // fninit; fld1; fld1; faddp
        code.set(.rdi, 0x7000)
        code.raw(0x9B, 0xDB, 0x1F)  // fwait; fistp dword [rdi]
        code.loadEAX(0x7000)
        code.report(.rax)
        code.set(.rax, 0x3F80_0000)
        code.raw(0x66, 0x0F, 0x6E, 0xC0)  // movd xmm0, eax
        code.raw(0x0F, 0x58, 0xC0)  // addps xmm0, xmm0
        code.raw(0x0F, 0x58, 0xC0)
        code.raw(0x66, 0x0F, 0x7E, 0xC0)  // movd eax, xmm0
        code.report(.rax)
        program.expected.results = [2, 0x4080_0000]
    }

    static let software = GuestProgram("CMPXCHG16B, POPCNT and INT3") { code, program in
        code.loadIDT()
        program.addData(at: 0x7000, [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])
        code.set(.rax, 1)
        code.set(.rdx, 2)
        code.set(.rbx, 3)
        code.set(.rcx, 4)
        code.set(.rdi, 0x7000)
        code.raw(0x48, 0x0F, 0xC7, 0x0F)  // cmpxchg16b [rdi]: equal
        code.raw(0x0F, 0x94, 0xC0, 0x0F, 0xB6, 0xC0)  // sete al; movzx eax, al
        code.report(.rax)
        code.set(.rax, 1)
        code.raw(0x48, 0x0F, 0xC7, 0x0F)  // cmpxchg16b [rdi]: different
        code.report(.rax)
        code.report(.rdx)
        code.set(.rcx, 0xF0F0_0001)
        code.raw(0xF3, 0x0F, 0xB8, 0xC1)  // popcnt eax, ecx
        code.report(.rax)
        code.raw(0xCC)  // int3
        code.report(0x75)
        program.addHandler(3, at: 0x6000) { handler in
            handler.report(0x74)
            handler.raw(0x48, 0xCF)  // iretq
        }
        program.expected.results = [1, 3, 4, 9, 0x74, 0x75]
    }

    static let faultInFallback = GuestProgram("CMPXCHG16B where no memory is") { code, program in
        code.loadIDT()
        code.set(.rdi, 0x1_2345_6000)
        code.raw(0x48, 0x0F, 0xC7, 0x0F)
        program.addHandler(14, at: 0x6000, reportPageFault)
        program.expected.results = [2, 0x2345_6000]
    }
}
