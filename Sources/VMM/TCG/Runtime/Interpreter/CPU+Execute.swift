internal import Synchronization

// The interpreter's outer loop: finds blocks, and looks after whatever is waiting between them.

extension CPU {
    /// Another thread, or this one, wants the CPU out of its loop.
    @inline(__always)
    var hasExitRequest: Bool {
        // SAFETY: an aligned word of the state, which other threads store to atomically.
        unsafe withUnsafeMutablePointer(to: &state.pointee.exitRequest) {
            unsafe UnsafeMutableRawPointer($0).assumingMemoryBound(to: Atomic<UInt32>.self)
                .pointee.load(ordering: .relaxed) != 0
        }
    }

    /// Runs until the machine is needed (`serviceInterrupts` says so), the CPU halts or shuts
    /// down.
    func execute() {
        guard let cache = makeCodeCache() else {
            unsafe state.pointee.isShutDown = true
            return
        }
        var exit = BlockExit.none
        while true {
            var single = false
            if needsAttention {
                exit = .none
                switch attend() {
                case .leave: return
                case .goOn: break
                case .shadowed:
                    exit = stepInShadow(cache)
                    continue
                case .single: single = true
                }
            }
            exit = step(cache, after: exit, single: single)
        }
    }

    /// Goes on behind an instruction that holds interrupts back. Translated code asks whether
    /// somebody wants the CPU before it runs anything, and then the shadow is still there.
    func stepInShadow(_ cache: CodeCache) -> BlockExit {
        let (start, retired) = (rip, fields.retired)
        let exit = step(cache, after: .none, single: false)
        if rip == start && fields.retired == retired { fields.interruptShadow = 1 }
        return exit
    }

    /// Finds and runs a block, and those that it leads to.
    private func step(_ cache: CodeCache, after exit: BlockExit, single: Bool) -> BlockExit {
        let generation = codeGeneration
        var single = single
        let block: Block
        do throws(Fault) {
            var found = try findBlock(cache, single: single)
            // The last instructions before the budget ends go one by one.
            if !single, found.count > 1, Int64(found.count) > budget {
                single = true
                found = try findBlock(cache, single: true)
            }
            block = found
        } catch {
            deliver(error)
            return .none
        }
        // What has been left may be gone, if blocks had to be forgotten.
        let isConnected = generation == codeGeneration
        if isConnected { exit.warmUp(block) }
        let isStepping = fields.modeKey & ModeKey.singleStep != 0
        if single || isStepping || block.isTransient {
            runAlone(block)
            return .none
        }
        if isConnected { exit.connect(to: block, generation: generation) }
        // RF lasts for one instruction, and only breakpoints care when it ends.
        fields.systemFlags &= ~RFLAGS.rf
        if isHot(block) {
            guard prepare(block, cache) else { return .none }
            if exit.block == 0 {
                addTarget(block)
            } else if isConnected {
                cache.connect(exit, to: block, generation: generation)
            }
            if fields.lockstep != Lockstep.Stage.off, let translator = cache.translator {
                return runBoth(block, translator)
            }
            if unsafe Int64(block.header.pointee.hostCount) <= budget {
                return runHost(block, cache)
            }
        }
        if fields.lockstep != Lockstep.Stage.off { owner.lockstep?.otherRuns += 1 }
        counters.interpreterRuns &+= 1
        count(block)
        return run(block)
    }

    /// Counts a run of the interpreter.
    /// - Returns: whether it is one too many.
    private func isHot(_ block: Block) -> Bool {
        block.coolDown()
        return unsafe block.header.pointee.heat < 0
    }

    /// Translates a block if that has not been done.
    /// - Returns: `false` if room had to be made: it is to be looked up again.
    private func prepare(_ block: Block, _ cache: CodeCache) -> Bool {
        if unsafe block.header.pointee.host != 0 { return true }
        return translate(block, cache)
    }

    @inline(never)
    private func translate(_ block: Block, _ cache: CodeCache) -> Bool {
        guard let translator = cache.translator else { return false }
        guard translator.translate(block, threshold: fields.translationThreshold) else {
            makeRoomForCode(cache, translator, for: block)
            return false
        }
        cache.noteTranslation(block)
        counters.noteTranslation(block)
        return true
    }

    /// Runs `count` instructions (fewer if the CPU stops). For tests.
    func execute(count: Int) {
        budget = 0
        guard let cache = makeCodeCache() else { return }
        for _ in 0..<count {
            if fields.isHalted || fields.isShutDown { return }
            do throws(Fault) {
                runAlone(try findBlock(cache, single: true))
            } catch {
                deliver(error)
            }
        }
    }

    // MARK: Between blocks

    private enum Attention {
        case goOn
        /// What waits from now on has to wait for one more instruction.
        case shadowed
        /// One instruction, then look again.
        case single
        case leave
    }

    @inline(__always)
    private var needsAttention: Bool {
        hasExitRequest || budget <= 0 || fields.interruptShadow != 0 || fields.isHalted
            || fields.isShutDown
    }

    private func attend() -> Attention {
        if fields.isHalted || fields.isShutDown {
            return serviceInterrupts() || fields.isHalted || fields.isShutDown ? .leave : .goOn
        }
        let isWaiting = hasExitRequest || budget <= 0
        if fields.interruptShadow != 0 {
            // What waits has to wait for one more instruction.
            fields.interruptShadow = 0
            return isWaiting ? .single : .shadowed
        }
        if isWaiting && serviceInterrupts() { return .leave }
        return .goOn
    }

    @inline(__always)
    func count(_ block: Block) {
        budget &-= Int64(block.count)
        unsafe state.pointee.retired &+= UInt64(block.count)
    }

    /// Takes back the instructions of `block` from `op` on.
    func uncount(_ block: Block, from op: OperationPointer) {
        let rest = block.count &- UInt16(op.number)
        budget &+= Int64(rest)
        unsafe state.pointee.retired &-= UInt64(rest)
    }

    /// Runs a block of one instruction whose exits are not followed, with its debug traps.
    func runAlone(_ block: Block) {
        let isStepping = fields.modeKey & ModeKey.singleStep != 0
        if isStepping {
            do throws(Fault) {
                try beforeStep()
            } catch {
                deliver(error)
                return
            }
        }
        count(block)
        let exit = runUnfollowed(block)
        if isStepping && exit.edge != .faulted { afterStep() }
    }

    /// Runs a block, which has been counted, and none of those that it leads to: without budget
    /// nothing is followed.
    func runUnfollowed(_ block: Block) -> BlockExit {
        let kept = budget
        budget = min(kept, 0)
        let before = budget
        let exit = run(block)
        budget = kept &+ (budget &- before)
        return exit
    }
}
