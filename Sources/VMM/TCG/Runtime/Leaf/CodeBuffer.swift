internal import Core
internal import CLinux
internal import Glibc

/// Memory for generated code: one memfd seen twice, once writable, once executable, so that no
/// page is ever both (W^X). Code is only ever added.
// SAFETY: the two views stay mapped for the life of the object, writes are bounded by `capacity`.
@safe final class CodeBuffer {
    private let writable: MemoryMapping
    private let executable: UnsafeMutableRawPointer
    private let capacity: Int
    private(set) var used = 0

    /// - Parameter capacity: bytes of address space; memory is taken as code is added.
    init(capacity: Int) throws(SystemError) {
        let file = try MemFD(name: "apus-code", size: UInt64(capacity))
        writable = try MemoryMapping(sharing: file.fd.rawValue, size: capacity)
        let view = unsafe mmap(
            nil, capacity, PROT_READ | PROT_EXEC, MAP_SHARED, file.fd.rawValue, 0)
        guard let view = unsafe view, unsafe view != MAP_FAILED else {
            throw SystemError("mmap", errno: errno)
        }
        unsafe executable = view
        self.capacity = capacity
    }

    deinit { _ = unsafe munmap(executable, capacity) }

    /// Adds code and returns where it can be called, or `nil` if the buffer is full.
    func append(_ code: [UInt8]) -> UnsafeRawPointer? {
        let start = (used + 15) & ~15
        guard start <= capacity, code.count <= capacity - start else { return nil }
        unsafe code.span.withUnsafeBytes { bytes in
            unsafe (writable.base + start).copyMemory(
                from: bytes.baseAddress.unsafelyUnwrapped, byteCount: bytes.count)
        }
        used = start + code.count
        return unsafe UnsafeRawPointer(executable + start)
    }
}
