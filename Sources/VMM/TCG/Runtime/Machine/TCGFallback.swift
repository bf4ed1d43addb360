public import Accelerator
public import Core
internal import Glibc
internal import Synchronization
internal import TCGDecoder

/// Apus's own CPU in the service of another provider: it executes single instructions on states
/// that are handed to it. Nothing is allocated before the first one.
public final class TCGFallback: InstructionFallback {
    private struct State {
        var core: MachineCore?
        var cpus: [TCGVCPU?]
    }

    private let memory: GuestMemory
    private let surface: any ExitSurface
    private let options: TCGOptions
    private let windows = WindowTable()
    private let state: Mutex<State>

    public init(memory: GuestMemory, surface: any ExitSurface, cpuCount: Int) {
        self.memory = memory
        self.surface = surface
        // Which features the provider's guest has, its state tells only in part.
        options = TCGOptions(cpuCount: cpuCount, tier: .interpreter, model: .max)
        state = Mutex(State(cpus: Array(repeating: nil, count: cpuCount)))
    }

    public func execute(cpu index: Int, _ state: inout CPUState) -> FallbackResult {
        guard Self.knows(state), let vcpu = vcpu(index), let cache = vcpu.cpu.makeCodeCache()
        else { return .unsupported }
        let cpu = vcpu.cpu
        cpu.take(state)
        // SAFETY: nothing looks at the image after the instruction.
        let isDone = unsafe state.extendedImage.withUnsafeMutableBytes { image in
            unsafe cpu.fields.extendedImage = image.baseAddress
            cpu.fields.extendedComponents =
                ExtendedStateLayout.host.components(within: image.count) & state.permittedXCR0
            defer { unsafe cpu.fields.extendedImage = nil }
            unsafe cpu.takeUpperHalves(image)
            guard cpu.executeBorrowed(cache) else { return false }
            unsafe cpu.giveUpperHalves(image)
            return true
        }
        guard isDone else { return .unsupported }
        if cpu.fields.isShutDown { return .tripleFault }
        cpu.give(&state)
        if let effect = MachineEffect(rawValue: cpu.fields.pendingEffect), effect != .none {
            return .effect(effect)
        }
        return .done
    }

    public func place(_ window: SharedWindow, at address: GuestAddress?) -> Bool {
        windows.place(window, at: address)
    }

    /// Whether this CPU would translate addresses and check rights as the state demands. It knows
    /// neither five levels of page tables nor shadow stacks nor masked addresses.
    private static func knows(_ state: borrowing CPUState) -> Bool {
        state.cr4 & ~CR4.borrowable == 0 && state.efer & ~EFER.borrowable == 0
            // The bits that mask addresses.
            && state.cr3 >> 61 == 0
    }

    /// The CPU that stands in for `index`. Only that CPU's thread uses it.
    private func vcpu(_ index: Int) -> TCGVCPU? {
        state.withLock { state in
            guard state.cpus.indices.contains(index) else { return nil }
            if let cpu = state.cpus[index] { return cpu }
            let core =
                state.core
                ?? MachineCore(
                    options: options, memory: memory, surface: surface, windows: windows)
            state.core = core
            guard let cpu = try? TCGVCPU(core: core, index: index) else { return nil }
            state.cpus[index] = cpu
            return cpu
        }
    }
}

extension CPU {
    /// Takes over a state from another provider.
    fileprivate func take(_ state: borrowing CPUState) {
        fields.pendingEffect = 0
        fields.pendingDebug = 0
        fields.stepArmed = false
        fields.isHalted = false
        fields.isShutDown = false
        fields.interruptPending = false
        for number in 0..<16 { self[UInt8(number)] = state.registers[number] }
        rip = state.rip
        for number in 0..<8 {
            let segment = state.segments[number]
            fields.segments[number] = Segment(
                selector: segment.selector, attributes: segment.attributes, limit: segment.limit,
                base: segment.base)
        }
        fields.gdtr = TableRegister(base: state.gdt.base, limit: state.gdt.limit)
        fields.idtr = TableRegister(base: state.idt.base, limit: state.idt.limit)
        fields.cr0 = state.cr0
        fields.cr2 = state.cr2
        // Without global pages the TLB's log lists all entries, and a flush is cheap.
        fields.cr4 = state.cr4 & ~CR4.pge
        fields.efer = state.efer
        fields.isLongMode = state.efer & EFER.lma != 0
        let hasKeys = fields.isLongMode && state.cr4 & CR4.pke != 0
        fields.protectionKeyRights = hasKeys ? state.pkru : 0
        for number in 0..<8 { fields.debugRegisters[number] = state.debugRegisters[number] }
        fields.hasDataBreakpoints = false
        takeModelSpecific(state)
        fields.interruptShadow = state.hasInterruptShadow ? 1 : 0
        fields.isNMIBlocked = state.isNMIBlocked
        // SAFETY: the image has 512 bytes.
        for word in 0..<64 {
            unsafe fxImage.storeBytes(
                of: state.fxImage[word], toByteOffset: 8 * word, as: UInt64.self)
        }
        let maskOfMXCSR = UInt32(truncatingIfNeeded: state.fxImage[FXImage.mxcsr / 8] >> 32)
        fields.supportedMXCSR = FXImage.supportedMXCSR | maskOfMXCSR & FXImage.misalignedSSE
        fields.cpl = UInt8((state.segments[Int(SegmentRegister.ss)].attributes >> 5) & 3)
        setArithmeticFlags(state.rflags)
        fields.systemFlags = (state.rflags & ~RFLAGS.arithmetic) | 2
        // The local APIC is the provider's: see `executeBorrowed`.
        fields.apicPage = owner.apic.base & PageEntry.address
        // Bad PDPTEs would have faulted where CR3 was loaded.
        fields.cr3 = state.cr3
        try? loadCR3(state.cr3)
        updateMode()
    }

    private func takeModelSpecific(_ state: borrowing CPUState) {
        fields.star = state.star
        fields.lstar = state.lstar
        fields.cstar = state.cstar
        fields.sfmask = state.sfmask
        fields.kernelGSBase = state.kernelGSBase
        fields.sysenterCS = state.sysenterCS
        fields.sysenterESP = state.sysenterESP
        fields.sysenterEIP = state.sysenterEIP
        fields.tscAux = state.tscAux
        fields.xcr0 = state.xcr0
        fields.hasExtendedChange = false
        fields.tscAdjust = state.tsc &- owner.guestTime()
    }

    private var borrowsUpperHalves: Bool {
        fields.extendedComponents & ExtendedStateLayout.avx != 0
    }

    /// Where the upper halves of YMM registers are in an image that has them, and whether the
    /// image says so.
    // SAFETY: components in `extendedComponents` lie inside the image.
    private func upperHalves(
        _ image: UnsafeMutableRawBufferPointer
    ) -> (place: UnsafeMutableRawBufferPointer, header: UInt64) {
        let component = ExtendedStateLayout.host[ExtendedStateLayout.upperHalves]
        let place = unsafe image[component.offset..<component.offset + component.size]
        return unsafe (
            UnsafeMutableRawBufferPointer(rebasing: place),
            image.loadUnaligned(fromByteOffset: 512, as: UInt64.self)
        )
    }

    fileprivate func takeUpperHalves(_ image: UnsafeMutableRawBufferPointer) {
        fields.hasUpperHalves = 0
        guard borrowsUpperHalves else { return }
        let (place, header) = unsafe upperHalves(image)
        guard header & ExtendedStateLayout.avx != 0 else { return }
        fields.hasUpperHalves = 1
        unsafe upperHalf(0).copyMemory(
            from: place.baseAddress.unsafelyUnwrapped, byteCount: place.count)
    }

    fileprivate func giveUpperHalves(_ image: UnsafeMutableRawBufferPointer) {
        guard borrowsUpperHalves else { return }
        let (place, header) = unsafe upperHalves(image)
        let isUsed = fields.hasUpperHalves != 0
        let wasUsed = header & ExtendedStateLayout.avx != 0
        let isSame =
            unsafe isUsed
            && memcmp(upperHalf(0), place.baseAddress.unsafelyUnwrapped, place.count) == 0
        if isUsed == wasUsed && (!isUsed || isSame) { return }
        if !isUsed { clearUpperHalves() }
        unsafe place.copyMemory(
            from: UnsafeRawBufferPointer(start: upperHalf(0), count: place.count))
        let bit = isUsed ? ExtendedStateLayout.avx : 0
        unsafe image.storeBytes(
            of: header & ~ExtendedStateLayout.avx | bit, toByteOffset: 512, as: UInt64.self)
        fields.hasExtendedChange = true
    }

    /// Gives the state back.
    func give(_ state: inout CPUState) {
        for number in 0..<16 { state.registers[number] = self[UInt8(number)] }
        state.rip = rip
        state.rflags = rflags
        for number in 0..<8 {
            let segment = fields.segments[number]
            state.segments[number].selector = segment.selector
            state.segments[number].attributes = segment.attributes
            state.segments[number].limit = segment.limit
            state.segments[number].base = segment.base
        }
        state.gdt = .init(base: fields.gdtr.base, limit: fields.gdtr.limit)
        state.idt = .init(base: fields.idtr.base, limit: fields.idtr.limit)
        state.cr0 = fields.cr0
        state.cr2 = fields.cr2
        state.cr3 = fields.cr3
        state.cr4 = fields.cr4 | (state.cr4 & CR4.pge)
        state.efer = fields.efer
        for number in 0..<8 { state.debugRegisters[number] = fields.debugRegisters[number] }
        state.star = fields.star
        state.lstar = fields.lstar
        state.cstar = fields.cstar
        state.sfmask = fields.sfmask
        state.kernelGSBase = fields.kernelGSBase
        state.sysenterCS = fields.sysenterCS
        state.sysenterESP = fields.sysenterESP
        state.sysenterEIP = fields.sysenterEIP
        state.tscAux = fields.tscAux
        state.xcr0 = fields.xcr0
        state.hasExtendedChange = fields.hasExtendedChange
        state.hasInterruptShadow = fields.interruptShadow != 0
        state.isNMIBlocked = fields.isNMIBlocked
        for word in 0..<64 {
            // SAFETY: the image has 512 bytes.
            state.fxImage[word] = unsafe fxImage.load(fromByteOffset: 8 * word, as: UInt64.self)
        }
    }

    /// Executes the instruction at RIP. `false`: this CPU does not know it; or it needs the local
    /// APIC, and what it did until then must be forgotten, but for what it wrote to memory.
    fileprivate func executeBorrowed(_ cache: CodeCache) -> Bool {
        fields.interruptShadow = 0
        budget = 0
        let block: Block
        do throws(Fault) {
            block = try findBlock(cache, single: true)
        } catch {
            deliver(error)
            return true
        }
        if block.operations.code == .undefined, isUnsupported(block) { return false }
        // Instructions with VEX zero what is beyond 32 bytes, which this CPU does not have.
        let hasMore = fields.extendedComponents & ExtendedStateLayout.avx512 != 0
        if hasMore, block.operations.leaf?.flags.contains(.avx) == true { return false }
        fields.apicAccesses = 0
        // A repetition stops after a run, as if interrupted: who kicks the provider's CPU does not
        // reach this one.
        requestService()
        runAlone(block)
        owner.block.clearExitRequest()
        return fields.apicAccesses == 0
    }

    /// An instruction that exists on other processors.
    private func isUnsupported(_ block: Block) -> Bool {
        // SAFETY: the block's own copy of its bytes.
        let bytes = unsafe UnsafeBufferPointer(
            start: block.bytes.assumingMemoryBound(to: UInt8.self),
            count: Int(block.header.pointee.byteCount))
        let decoder = Decoder(mode: CodeMode(rawValue: fields.codeSize) ?? .bits64)
        guard case .instruction(let instruction) = unsafe decoder.decode(bytes.span) else {
            return false
        }
        return !owner.model.supports(instruction)
    }
}
