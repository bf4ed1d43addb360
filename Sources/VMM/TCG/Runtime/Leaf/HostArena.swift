internal import CLinux
internal import Core
internal import Glibc

/// Memory for generated code, seen twice, once writable, once executable, so that no
/// page is ever both (W^X). Emptied as a whole; code in it is patched through the writable view.
///
/// It has two parts, each filled from its bottom: what runs often, which should be dense for the
/// sake of the host's caches, and what runs rarely.
// SAFETY: both views stay mapped for the life of the object; offsets are checked by those who
// write (`HostAssembler`), or come from there.
@safe final class HostArena {
    private let mapping: MemoryMapping
    private let executable: UnsafeMutableRawPointer
    let capacity: Int
    /// Where the second part begins.
    let coldStart: Int
    private(set) var used = 0
    /// The end of what is used in the second part.
    private(set) var coldUsed: Int
    /// What is used by the stubs, which stay.
    private var base = 0

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
        coldUsed = coldStart
    }

    deinit { _ = unsafe munmap(executable, capacity) }

    func isCold(_ offset: Int) -> Bool { offset >= coldStart }

    /// Where `offset` is written.
    func writable(_ offset: Int) -> UnsafeMutableRawPointer { unsafe mapping.base + offset }

    /// Where `offset` is executed.
    func address(_ offset: Int) -> UInt { UInt(bitPattern: unsafe executable) + UInt(offset) }

    func offset(of address: UInt) -> Int { Int(address &- UInt(bitPattern: unsafe executable)) }

    /// Everything below these offsets is used, in each of the parts.
    func commit(_ end: Int, cold coldEnd: Int? = nil) {
        used = min(coldStart, (end + 15) & ~15)
        if let coldEnd { coldUsed = min(capacity, coldEnd) }
    }

    /// Adds code, and returns where it can be called, or `nil` if there is no room.
    func append(_ bytes: [UInt8]) -> UInt? {
        guard bytes.count <= coldStart - used else { return nil }
        let start = used
        unsafe bytes.span.withUnsafeBytes { bytes in
            unsafe UnsafeMutableRawBufferPointer(start: writable(start), count: bytes.count)
                .copyMemory(from: bytes)
        }
        commit(start + bytes.count)
        return address(start)
    }

    /// What is there now stays when the arena is emptied.
    func keep() { base = used }

    func removeAll() { (used, coldUsed) = (base, coldStart) }

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
