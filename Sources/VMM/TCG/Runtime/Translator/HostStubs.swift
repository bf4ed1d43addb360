/// The code at the arena's bottom that leads into translated code and out of it.
struct HostStubs {
    /// `UInt enter(VCPUState *state, UInt code)`: the result says how the code was left.
    private(set) var enter = 0
    /// Leaves with the flags in EFLAGS, or already in the frame. R9 is the result.
    private(set) var leave = 0
    private(set) var leaveWithFlagsInFrame = 0
    /// Has the interpreter execute one operation, which R9 names. The flags are in EFLAGS, in the
    /// frame, or of no interest.
    private(set) var helper = 0
    private(set) var helperWithFlagsInFrame = 0
    private(set) var helperWithoutFlags = 0
    /// Leaves the host address of the access to R9 that R10 describes (`HostAccess`) there, and keeps
    /// all other registers but R10; the flags are lost. Where the interpreter has to see to the
    /// access, it returns behind the jump (of `skipped` bytes) that follows the call.
    private(set) var fill = 0
    /// Brings MXCSR and the vector registers, if the guest masks all exceptions: R9 is 0 then.
    private(set) var loadVectors = 0
    /// Brings the x87 registers as well, if the guest masks their exceptions, too.
    private(set) var loadX87 = 0
    /// Brings the upper halves of YMM registers as well; 0 where the guest has none.
    private(set) var loadUpperHalves = 0

    /// Names of the pieces, and where each of them begins.
    var places: [(name: String, start: Int)] {
        var places = [
            ("enter", enter), ("leave", leave), ("leave", leaveWithFlagsInFrame),
            ("helper", helper), ("helper", helperWithFlagsInFrame), ("helper", helperWithoutFlags),
            ("fill", fill), ("load-vectors", loadVectors), ("load-x87", loadX87),
        ]
        if loadUpperHalves != 0 { places.append(("load-upper-halves", loadUpperHalves)) }
        return places
    }

    typealias Enter = @convention(c) (UnsafeMutableRawPointer, UInt) -> UInt
    typealias Fill = @convention(c) (UnsafeMutableRawPointer, UInt64, UInt32) -> UInt
    typealias Helper = @convention(c) (UnsafeMutableRawPointer, UInt, UInt32) -> UInt32

    /// Writes the stubs into an empty arena.
    init(
        _ arena: HostArena, hasAVX: Bool, helper function: Helper, fill fillFunction: Fill
    ) {
        var code = HostAssembler(arena)
        enter = code.position
        // push rbx, rbp, r12-r15
        code.sequence(0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57)
        code.lea(HostRegister.rax, HostMemory(HostRegister.rdi, -HostFrame.state))
        code.store(HostMemory(HostRegister.rax, HostFrame.hostStack), HostRegister.rsp)
        code.move(HostRegister.rsp, HostRegister.rax)
        // stmxcsr [hostMXCSR]
        code.memory(0x0FAE, size: 4, reg: 3, HostFrame.slot(HostFrame.hostMXCSR))
        code.move(HostRegister.first, HostRegister.rsi)
        Self.restore(&code)
        code.bytes(0x41, 0xFF, 0xE1)  // jmp r9

        leave = code.position
        Self.save(&code)
        code.sequence(0x9F, 0x0F, 0x90, 0xC0)  // lahf; seto al
        code.store(HostFrame.slot(HostFrame.flags), HostRegister.rax, size: 4)
        let end = code.jump()
        leaveWithFlagsInFrame = code.position
        Self.save(&code)
        code.land(end)
        let noVectors = Self.whenVectors(&code)
        Self.saveVectors(&code, hasAVX: hasAVX)
        Self.setVectors(&code, to: 0)
        code.land(noVectors)
        let leaveSaved = code.position
        code.move(HostRegister.rax, HostRegister.first)
        code.load(HostRegister.rsp, HostFrame.slot(HostFrame.hostStack))
        // pop r15-r12, rbp, rbx; ret
        code.sequence(0x41, 0x5F, 0x41, 0x5E, 0x41, 0x5D, 0x41, 0x5C, 0x5D, 0x5B, 0xC3)

        helper = code.position
        Self.popResume(&code)
        Self.save(&code)
        code.sequence(0x9F, 0x0F, 0x90, 0xC0)
        code.store(HostFrame.slot(HostFrame.flags), HostRegister.rax, size: 4)
        code.set(HostRegister.rdx, to: 1)
        let first = code.jump()
        helperWithFlagsInFrame = code.position
        Self.popResume(&code)
        Self.save(&code)
        code.set(HostRegister.rdx, to: 1)
        let second = code.jump()
        helperWithoutFlags = code.position
        Self.popResume(&code)
        Self.save(&code)
        code.set(HostRegister.rdx, to: 0)
        code.land(first)
        code.land(second)
        unsafe Self.callHelper(&code, function, leaveSaved: leaveSaved, hasAVX: hasAVX)

        fill = code.position
        unsafe Self.callFill(&code, fillFunction, hasAVX: hasAVX)

        loadVectors = code.position
        code.bytes(0x41, 0x5A)  // pop r10
        let isUnmasked = Self.whenUnmasked(&code)
        Self.restoreSSE(&code)
        Self.setVectors(&code, to: HostFrame.Vectors.sse)
        code.land(isUnmasked)
        code.bytes(0x41, 0xFF, 0xE2)  // jmp r10
        loadX87 = code.position
        Self.bringX87(&code)
        if hasAVX {
            loadUpperHalves = code.position
            Self.bringUpperHalves(&code)
        }
        arena.commit(code.position)
        arena.keep(regions: CodeRegions.count(for: arena.capacity / 2))
    }

    private static func popResume(_ code: inout HostAssembler) {
        code.bytes(0x41, 0x5A)  // pop r10
        code.store(HostFrame.slot(HostFrame.resume), HostRegister.second)
    }

    private static func callHelper(
        _ code: inout HostAssembler, _ function: Helper, leaveSaved: Int, hasAVX: Bool
    ) {
        let noVectors = whenVectors(&code)
        saveVectors(&code, hasAVX: hasAVX)
        code.land(noVectors)
        code.move(HostRegister.rsi, HostRegister.first)
        code.lea(HostRegister.rdi, HostFrame.slot(HostFrame.state))
        code.move(HostRegister.rbx, HostRegister.rsp)
        code.load(HostRegister.rsp, HostFrame.slot(HostFrame.hostStack))
        code.sequence(0x48, 0x83, 0xEC, 0x08)  // sub rsp, 8: aligned to 16 bytes
        // SAFETY: a C function's value is its address.
        let address = unsafe unsafeBitCast(function, to: UInt.self)
        code.set(HostRegister.rax, to: UInt64(address))
        code.bytes(0xFF, 0xD0)  // call rax
        code.move(HostRegister.rsp, HostRegister.rbx)
        code.set(HostRegister.first, to: 0)
        code.bytes(0x85, 0xC0)  // test eax, eax
        let goOn = code.jump(if: 4)
        setVectors(&code, to: 0)
        code.jump(to: leaveSaved)
        code.land(goOn)
        let hadNone = whenVectors(&code)
        restoreVectors(&code, hasAVX: hasAVX)
        code.land(hadNone)
        restore(&code)
        code.memory(0xFF, size: 4, reg: 4, HostFrame.slot(HostFrame.resume))  // jmp
    }

    /// What a C function may change: the registers that are the guest's, and RBX for our own use.
    private static let changed: [UInt8] = [0, 1, 2, 3, 6, 7, 8, 15]

    /// The stub `fill`. The return address is still on the stack, so all of the frame is 8 bytes
    /// further.
    private static func callFill(
        _ code: inout HostAssembler, _ function: Fill, hasAVX: Bool
    ) {
        for guest in changed {
            code.store(HostFrame.register(guest).advanced(by: 8), HostRegister.of(guest))
        }
        moveVectors(&code, hasAVX: hasAVX, isSave: true)
        code.move(HostRegister.rbx, HostRegister.rsp)
        code.lea(HostRegister.rdi, HostFrame.slot(HostFrame.state + 8))
        code.move(HostRegister.rsi, HostRegister.first)
        code.move(HostRegister.rdx, HostRegister.second, size: 4)
        code.load(HostRegister.rsp, HostFrame.slot(HostFrame.hostStack + 8))
        code.sequence(0x48, 0x83, 0xEC, 0x08)  // sub rsp, 8: aligned to 16 bytes
        // SAFETY: a C function's value is its address.
        let address = unsafe unsafeBitCast(function, to: UInt.self)
        code.set(HostRegister.rax, to: UInt64(address))
        code.bytes(0xFF, 0xD0)  // call rax
        code.move(HostRegister.rsp, HostRegister.rbx)
        code.move(HostRegister.first, HostRegister.rax)
        moveVectors(&code, hasAVX: hasAVX, isSave: false)
        for guest in changed {
            code.load(HostRegister.of(guest), HostFrame.register(guest).advanced(by: 8))
        }
        code.registers(0x85, size: 8, reg: HostRegister.first, rm: HostRegister.first)  // test
        let isNowhere = code.jump(if: 4)
        code.byte(0xC3)  // ret
        code.land(isNowhere)
        code.sequence(0x48, 0x83, 0x04, 0x24, UInt8(HostAssembler.jumpSize))  // add qword [rsp], 5
        code.byte(0xC3)
    }

    private static func save(_ code: inout HostAssembler) {
        for guest in HostRegister.mapped {
            code.store(HostFrame.register(guest), HostRegister.of(guest))
        }
    }

    /// Loads flags and registers.
    private static func restore(_ code: inout HostAssembler) {
        code.load(HostRegister.rax, HostFrame.slot(HostFrame.flags), size: 4)
        code.bytes(0x04, 0x7F, 0x9E)  // add al, 127; sahf
        for guest in HostRegister.mapped {
            code.load(HostRegister.of(guest), HostFrame.register(guest))
        }
    }
}
