// The CPU's decoded blocks as a whole: made on first use, and given up.

extension CPU {
    var codeCache: CodeCache? {
        guard let pointer = unsafe state.pointee.codeCache else { return nil }
        // SAFETY: retained by `makeCodeCache` until `releaseCodeCache`.
        return unsafe Unmanaged<CodeCache>.fromOpaque(pointer).takeUnretainedValue()
    }

    /// The cache, made on first use; `nil` if there is no memory for it.
    func makeCodeCache() -> CodeCache? {
        if let cache = codeCache { return cache }
        let translates = fields.translationThreshold >= 0
        guard
            let cache = CodeCache(
                arenaSize: codeArenaSize, translates: translates,
                hasAVX: translates && owner.model.hasAVX, files: owner.core.files,
                keepsMarks: owner.lockstep != nil)
        else { return nil }
        unsafe state.pointee.jumpCache = cache.jumpCache
        unsafe state.pointee.singleBlock = cache.singleBlock
        unsafe state.pointee.codeCache = UnsafeRawPointer(
            Unmanaged.passRetained(cache).toOpaque())
        // Zeroed entries must not look like matches: no generation is 0.
        return cache
    }

    /// Bytes for this CPU's blocks, half as many as for their translations.
    private var codeArenaSize: Int {
        let count = max(1, owner.core.options.cpuCount)
        if let size = owner.core.options.codeCacheSize { return Int(clamping: size) / count / 3 }
        let share = Int(clamping: fields.codePageCount) << 9 / count
        return min(max(share, 32 << 20), 256 << 20)
    }

    /// Frees all blocks; the CPU does not run any more.
    func releaseCodeCache() {
        guard let pointer = unsafe state.pointee.codeCache else { return }
        unsafe state.pointee.codeCache = nil
        unsafe state.pointee.jumpCache = nil
        removeTargets()
        unsafe state.pointee.singleBlock = nil
        unsafe Unmanaged<CodeCache>.fromOpaque(pointer).release()
    }
}
