internal import Synchronization

// Runs of one block in both tiers.

// SAFETY: states and pages are those of Lockstep; the exit request is an aligned word.
extension CPU {
    /// Runs a translated block, and none of those that it leads to.
    @inline(never)
    func runBoth(_ block: Block, _ translator: HostTranslator) -> BlockExit {
        guard let lockstep = owner.lockstep, lockstep.report == nil else { return .none }
        let kept = budget
        lockstep.requests = 0
        holdExitRequests(lockstep)
        defer {
            budget = kept &- (Int64(block.count) &- budget)
            if lockstep.requests != 0 { _ = exchangeExitRequest(1) }
        }
        guard block.comparison.isPossible else { return runOnce(block, lockstep) }
        lockstep.start()
        lockstep.keep(self, as: .before)
        let isFaulted = runInterpreter(block, lockstep)
        if lockstep.isUnfit { return runOnce(block, lockstep) }
        let exit = runTranslator(block, translator, lockstep, Lockstep.Stage.real)
        let hasFlags = compareFlags(block, isFaulted, exit, translator, lockstep)
        if lockstep.hasSameState && hasSamePages(lockstep, .real, isFaulted) {
            lockstep.comparedRuns += 1
            lockstep.forgetChanges()
            if isFaulted { takePushedFlags(lockstep) }
            if !hasFlags {
                let flags = unsafe lockstep.fields(.interpreter).pointee.systemFlags
                setArithmeticFlags(flags & RFLAGS.arithmetic)
            }
            return exit
        }
        return examine(block, translator, lockstep) ? .none : exit
    }

    private func runOnce(_ block: Block, _ lockstep: Lockstep) -> BlockExit {
        lockstep.otherRuns += 1
        budget = 0
        unsafe state.pointee.retired &+= UInt64(block.count)
        return run(block)
    }

    /// Nobody interrupts a run that is compared.
    private func holdExitRequests(_ lockstep: Lockstep) {
        lockstep.requests |= exchangeExitRequest(0)
    }

    private func exchangeExitRequest(_ value: UInt32) -> UInt32 {
        unsafe withUnsafeMutablePointer(to: &state.pointee.exitRequest) {
            unsafe UnsafeMutableRawPointer($0).assumingMemoryBound(to: Atomic<UInt32>.self)
                .pointee.exchange(value, ordering: .sequentiallyConsistent)
        }
    }

    /// Runs the block in the interpreter, on copies. The CPU is as before afterwards.
    /// - Returns: whether an exception was delivered.
    private func runInterpreter(_ block: Block, _ lockstep: Lockstep) -> Bool {
        fields.lockstep = Lockstep.Stage.copied
        budget = 0
        unsafe state.pointee.retired &+= UInt64(block.count)
        let exit = run(block)
        lockstep.keep(self, as: .interpreter)
        lockstep.foldFlags(.interpreter, arithmeticFlags)
        lockstep.undoChanges(self)
        lockstep.restore(self, .before)
        holdExitRequests(lockstep)
        return exit.edge == .faulted
    }

    /// Runs the block's code.
    private func runTranslator(
        _ block: Block, _ translator: HostTranslator, _ lockstep: Lockstep, _ stage: UInt8
    ) -> BlockExit {
        lockstep.allowWrites(self)
        // Flags that are not read must not matter.
        if translator.ignoresFlags(block) {
            setArithmeticFlags(arithmeticFlags ^ RFLAGS.arithmetic)
        }
        fields.lockstep = stage
        budget = Int64(block.count)
        let exit = codeCache.map { runHost(block, $0) } ?? .none
        fields.lockstep = Lockstep.Stage.idle
        lockstep.forbidWrites()
        lockstep.keep(self, as: .translator)
        lockstep.foldFlags(.translator, arithmeticFlags)
        return exit
    }

    /// Makes flags that need not be the same the interpreter's.
    /// - Returns: whether flags count at all.
    private func compareFlags(
        _ block: Block, _ isFaulted: Bool, _ exit: BlockExit, _ translator: HostTranslator,
        _ lockstep: Lockstep
    ) -> Bool {
        let (before, first) = unsafe (lockstep.fields(.before), lockstep.fields(.interpreter))
        let count = unsafe first.pointee.retired &- before.pointee.retired
        var isWhole = !isFaulted && count == UInt64(block.count)
        // The next block has been entered, and what it does not read has not been kept.
        if exit.edge == .stale, let next = Block(address: exit.block), translator.ignoresFlags(next)
        {
            isWhole = false
        }
        let ignored = isWhole ? block.comparison.undefinedFlags : RFLAGS.arithmetic
        let second = unsafe lockstep.fields(.translator)
        unsafe second.pointee.systemFlags ^=
            (first.pointee.systemFlags ^ second.pointee.systemFlags) & ignored
        return isWhole
    }

    /// Whether what has been written is the same as in the interpreter's copies.
    private func hasSamePages(
        _ lockstep: Lockstep, _ side: Lockstep.Side, _ isFaulted: Bool
    ) -> Bool {
        for index in 0..<lockstep.pageCount {
            let host =
                unsafe side == .real
                ? memoryHost(lockstep.address(index), count: 4096) : lockstep.copy(index, side)
            guard let host = unsafe host else { continue }
            let copy = unsafe lockstep.copy(index, .interpreter)
            if unsafe !Lockstep.isSame(host, copy, mayHaveFlags: isFaulted) { return false }
        }
        return true
    }

    /// Makes the flags of an exception's frame in memory the interpreter's.
    private func takePushedFlags(_ lockstep: Lockstep) {
        for index in 0..<lockstep.pageCount {
            guard let host = unsafe memoryHost(lockstep.address(index), count: 4096) else {
                continue
            }
            let copy = unsafe lockstep.copy(index, .interpreter)
            for offset in stride(from: 0, to: 4096, by: 8) {
                let value = unsafe copy.load(fromByteOffset: offset, as: UInt64.self)
                let own = unsafe host.load(fromByteOffset: offset, as: UInt64.self)
                if own != value && (own ^ value) & ~RFLAGS.arithmetic == 0 {
                    unsafe host.storeBytes(of: value, toByteOffset: offset, as: UInt64.self)
                }
            }
        }
    }

    /// Finds out whether a difference is there again when the block runs from the same memory.
    /// - Returns: whether it is; `report` says what differs then.
    private func examine(
        _ block: Block, _ translator: HostTranslator, _ lockstep: Lockstep
    ) -> Bool {
        holdExitRequests(lockstep)
        lockstep.keep(self, as: .real)
        lockstep.undoChanges(self)
        let requests = lockstep.requests
        var isDifferent = true
        for _ in 0..<4 where isDifferent {
            isDifferent = differsAgain(block, translator, lockstep)
        }
        lockstep.requests |= requests
        if isDifferent { lockstep.report = report(block, translator, lockstep) }
        lockstep.restore(self, .real)
        flushTLB()
        if isDifferent {
            requestService()
        } else {
            lockstep.otherRuns += 1
            lockstep.disturbedRuns += 1
        }
        return isDifferent
    }

    private func differsAgain(
        _ block: Block, _ translator: HostTranslator, _ lockstep: Lockstep
    ) -> Bool {
        lockstep.isUnfit = false
        lockstep.requests = 0
        lockstep.restore(self, .before)
        lockstep.reset(.interpreter)
        redirectAll(lockstep)
        let isFaulted = runInterpreter(block, lockstep)
        // Now it is a device that the interpreter reaches.
        if lockstep.isUnfit { return false }
        lockstep.reset(.translator)
        redirectAll(lockstep)
        let exit = runTranslator(block, translator, lockstep, Lockstep.Stage.copied)
        lockstep.undoChanges(self)
        holdExitRequests(lockstep)
        _ = compareFlags(block, isFaulted, exit, translator, lockstep)
        if lockstep.isUnfit { return true }
        if stopsEarlier(block, lockstep) { return false }
        return !lockstep.hasSameState || !hasSamePages(lockstep, .translator, isFaulted)
    }

    /// Whether a run may have ended before the other: translated code ends where a block begins when
    /// somebody wants the CPU, and behind an instruction that lets vector or x87 instructions raise
    /// exceptions.
    private func stopsEarlier(_ block: Block, _ lockstep: Lockstep) -> Bool {
        func count(_ side: Lockstep.Side) -> UInt64 { unsafe lockstep.fields(side).pointee.retired }
        let (first, second) = (count(.interpreter), count(.translator))
        if first != second && lockstep.requests != 0 { return true }
        guard second <= first, second &- count(.before) < UInt64(block.count) else { return false }
        return mxcsr & MXCSR.masks != MXCSR.masks
            || controlWord & X87Status.exceptions != X87Status.exceptions
    }
}
