internal import CLinux
internal import Core
internal import Glibc

/// Memory for generated code, seen twice, once writable, once executable, so that no
/// page is ever both (W^X). Code in it is patched through the writable view.
///
/// It has two parts: what runs often, which should be dense for the sake of the host's caches, and
/// what runs rarely. Each is filled region by region, both in step.
// SAFETY: both views stay mapped for the life of the object; offsets are checked by those who
// write (`HostAssembler`), or come from there.
@safe final class HostArena {
    private let mapping: MemoryMapping
    private let executable: UnsafeMutableRawPointer
    let capacity: Int
    /// Where the second part begins.
    let coldStart: Int
    private(set) var hot: CodeRegions
    private(set) var cold: CodeRegions
    /// The end of the stubs, which stay, in front of the first region.
    private(set) var base = 0

    /// - Parameters:
    ///   - capacity: bytes of address space; memory is taken as code is added.
    ///   - coldCapacity: how many of them are for code that runs rarely.
    ///   - isAnonymous: without a name, so that perf looks for names of the code in its map.
    init(capacity: Int, coldCapacity: Int = 0, isAnonymous: Bool = false) throws(SystemError) {
        let protection = PROT_READ | PROT_EXEC
        let view: UnsafeMutableRawPointer?
        if isAnonymous {
            mapping = try MemoryMapping(sharedZeroes: capacity)
            unsafe view = clinux_map_again(mapping.base, capacity, protection)
        } else {
            let file = try MemFD(name: "apus-tcg", size: UInt64(capacity))
            mapping = try MemoryMapping(sharing: file.fd.rawValue, size: capacity)
            unsafe view = mmap(nil, capacity, protection, MAP_SHARED, file.fd.rawValue, 0)
        }
        guard let view = unsafe view, unsafe view != MAP_FAILED else {
            throw SystemError("mmap", errno: errno)
        }
        unsafe executable = view
        self.capacity = capacity
        coldStart = capacity - coldCapacity
        hot = CodeRegions(0..<coldStart, count: 1)
        cold = CodeRegions(coldStart..<capacity, count: 1)
    }

    deinit { _ = unsafe munmap(executable, capacity) }

    func isCold(_ offset: Int) -> Bool { offset >= coldStart }

    /// Where `offset` is written.
    func writable(_ offset: Int) -> UnsafeMutableRawPointer { unsafe mapping.base + offset }

    /// Where `offset` is executed.
    func address(_ offset: Int) -> UInt { UInt(bitPattern: unsafe executable) + UInt(offset) }

    func offset(of address: UInt) -> Int { Int(address &- UInt(bitPattern: unsafe executable)) }

    /// Everything of the current regions below these offsets is used.
    func commit(_ end: Int, cold coldEnd: Int? = nil) {
        hot.use(upTo: (end + 15) & ~15)
        if let coldEnd { cold.use(upTo: coldEnd) }
    }

    /// Adds code, and returns where it can be called, or `nil` if there is no room.
    func append(_ bytes: [UInt8]) -> UInt? {
        guard bytes.count <= hot.free else { return nil }
        let start = hot.position
        unsafe bytes.span.withUnsafeBytes { bytes in
            unsafe UnsafeMutableRawBufferPointer(start: writable(start), count: bytes.count)
                .copyMemory(from: bytes)
        }
        commit(start + bytes.count)
        return address(start)
    }

    // MARK: Regions

    /// What is there now stays, and the rest becomes regions.
    func keep(regions count: Int) {
        base = hot.position
        hot = CodeRegions(base..<coldStart, count: count)
        cold = CodeRegions(coldStart..<capacity, count: count)
    }

    /// The region that code which runs often is in.
    func region(of offset: Int) -> Int { hot.region(of: offset) }

    var isRegionEmpty: Bool { hot.used(hot.current).isEmpty && cold.used(cold.current).isEmpty }

    /// Gives up the code of the next region, which is filled from now on.
    func advance() {
        hot.advance()
        cold.advance()
    }

    func removeAll() {
        hot.removeAll()
        cold.removeAll()
    }

    // MARK: Jumps

    /// Makes the relative jump whose last four bytes are at `place` go to `target`.
    func patch(_ place: Int, to target: Int) {
        let distance = Int32(truncatingIfNeeded: target - (place + 4))
        unsafe writable(place).storeBytes(of: distance, as: Int32.self)
    }

    /// Where that jump goes.
    func target(of place: Int) -> Int {
        place + 4 + Int(unsafe writable(place).loadUnaligned(as: Int32.self))
    }
}
