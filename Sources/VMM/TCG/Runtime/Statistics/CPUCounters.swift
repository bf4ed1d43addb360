/// What one CPU has done, for `stats=on`. All of it is counted in slow paths, which translated code
/// has left anyway, so nobody pays for it who does not ask. The numbers go on after a reset.
struct CPUCounters: BitwiseCopyable {
    // Decoded blocks (Interpreter/).

    /// Looks for a block that the jump cache did not know.
    var lookups: UInt64 = 0
    /// Blocks that such a look found, and how many were moved to where they were wanted.
    var found: UInt64 = 0
    var moved: UInt64 = 0
    /// Blocks that were known from before the guest left the address space, without such a look.
    var known: UInt64 = 0
    /// Blocks that were decoded, and the bytes of their instructions.
    var decoded: UInt64 = 0
    var decodedBytes: UInt64 = 0
    /// Blocks that writes to their bytes have killed.
    var killed: UInt64 = 0
    /// Blocks that were found and had other bytes than memory.
    var outdated: UInt64 = 0
    /// How often all blocks were forgotten.
    var flushes: UInt64 = 0
    /// What was forgotten because there was no room.
    var evictions = Evictions()
    /// New generations of supervisor mode's code, and of user mode's.
    var generations = InlineArray<2, UInt64>(repeating: 0)
    /// Changes of the address space to one whose code was still known.
    var returns: UInt64 = 0

    // Translated code (Translator/).

    /// Blocks that were translated, with what follows them in a trace; the bytes of the guest's
    /// code, and of the host's: what runs often, and what runs rarely.
    var translated: UInt64 = 0
    var translatedBytes: UInt64 = 0
    var hostBytes: UInt64 = 0
    var rareBytes: UInt64 = 0
    /// Those of more than one block, their blocks and their instructions.
    var traces: UInt64 = 0
    var traceBlocks: UInt64 = 0
    var traceInstructions: UInt64 = 0
    /// Instructions that were retired in translated code.
    var translatedInstructions: UInt64 = 0
    /// Runs of the interpreter, each of a block and what it is connected to.
    var interpreterRuns: UInt64 = 0
    /// How often translated code was entered, and why it was left.
    var entries: UInt64 = 0
    var exits = HostExits()
    /// Operations that translated code had the interpreter execute.
    var interpreted: UInt64 = 0
    /// Each of them is to be noted by its name, too.
    var notesNames = false

    // The soft TLB (Memory/).

    var fills: UInt64 = 0
    /// Flushes of everything, of all but global pages, and of single pages.
    var fullFlushes: UInt64 = 0
    var spaceFlushes: UInt64 = 0
    var pageFlushes: UInt64 = 0

    /// Translated code has run, and has retired as many instructions.
    @inline(__always)
    mutating func noteRun(of count: UInt64) {
        entries &+= 1
        translatedInstructions &+= count
    }

    /// A block has been translated.
    mutating func noteTranslation(_ block: Block) {
        let header = unsafe block.header.pointee
        translated &+= 1
        hostBytes &+= UInt64(header.hostSize)
        rareBytes &+= UInt64(header.rareSize)
        var bytes = UInt64(header.byteCount)
        _ = block.allParts { part in
            bytes &+= unsafe UInt64(part.header.pointee.byteCount)
            return true
        }
        translatedBytes &+= bytes
        guard header.partCount > 0 else { return }
        traces &+= 1
        traceBlocks &+= UInt64(header.partCount) + 1
        traceInstructions &+= UInt64(header.hostCount)
    }
}

/// What went because there was no room.
struct Evictions: BitwiseCopyable {
    /// Regions of decoded blocks, and of translated code.
    var regions: UInt64 = 0
    var codeRegions: UInt64 = 0
    /// The blocks, and their code; and the code of others.
    var blocks: UInt64 = 0
    var codes: UInt64 = 0
    /// The longest time that one of them took, in nanoseconds.
    var longest: UInt64 = 0
}

/// Why translated code was left.
struct HostExits: BitwiseCopyable {
    /// The block that follows was not connected.
    var unconnected: UInt64 = 0
    /// The target of an indirect branch was not in the table.
    var indirect: UInt64 = 0
    /// A block found that it may not run: it belongs to an older generation.
    var stale: UInt64 = 0
    /// Somebody wanted the CPU, or its budget was at an end.
    var wanted: UInt64 = 0
    /// An exception of the guest's.
    var exceptions: UInt64 = 0
    /// An operation of the interpreter's, behind which translated code does not go on.
    var operations: UInt64 = 0
    /// Vector or x87 exceptions are not masked.
    var unmasked: UInt64 = 0
}

extension CPU {
    /// What the CPU has done so far. On its own thread.
    @inline(__always)
    var counters: CPUCounters {
        // SAFETY: part of the CPU's block.
        _read { yield unsafe state.pointee.counters.pointee }
        nonmutating _modify { yield unsafe &state.pointee.counters.pointee }
    }

    /// Translated code has found that a block may not run now.
    /// - Returns: `false` if it is because somebody wants the CPU.
    func noteStale() -> Bool {
        if hasExitRequest || budget <= 0 {
            counters.exits.wanted &+= 1
            return false
        }
        counters.exits.stale &+= 1
        return true
    }

    /// Translated code has the interpreter execute an operation.
    @inline(__always)
    func noteInterpreted(_ op: OperationPointer, of block: Block) {
        counters.interpreted &+= 1
        if counters.notesNames { owner.mnemonics?.note(op, of: block) }
    }
}
