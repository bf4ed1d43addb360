internal import Core
internal import Glibc
internal import Synchronization

/// What the driver has asked for, noted in memory that outlives this process, for the next one. A
/// driver says it once, and does not know of processes.
///
/// A note is written beside the one that counts; one store makes it count. So whatever instruction
/// the process dies at, there is one note as a whole.
// SAFETY: the mapping has `size` bytes, lives as long as this object, and is aligned to a page. Slots
// lie in it one after the other, behind the word that names one; a slot's index is 0 or 1, and
// a note's length is checked against its room. An Atomic has the layout of its value.
@safe final class ControlNote {
    private static let size = 4096
    private static let firstSlot = 64
    private static let slotSize = 2000
    private static let lengthSize = 4

    private let mapping: MemoryMapping

    static func makeFile() throws(SystemError) -> SharedFD {
        let file = try MemFD(name: "apus-net", size: UInt64(size))
        return SharedFD(try file.fd.duplicate())
    }

    init(_ file: SharedFD) throws(SystemError) {
        mapping = try MemoryMapping(sharing: file.rawValue, size: Self.size)
    }

    /// The number of the slot that counts, from 1 on; 0: there is no note.
    private var current: UnsafeMutablePointer<Atomic<UInt32>> {
        unsafe mapping.base.assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    private func slot(_ index: UInt32) -> UnsafeMutableRawPointer {
        unsafe mapping.base + Self.firstSlot + Int(index & 1) * Self.slotSize
    }

    var bytes: [UInt8]? {
        let number = unsafe current.pointee.load(ordering: .acquiring)
        guard number > 0 else { return nil }
        let slot = unsafe slot(number - 1)
        let count = unsafe Int(slot.load(as: UInt32.self))
        guard count <= Self.slotSize - Self.lengthSize else { return nil }
        return unsafe Array(UnsafeRawBufferPointer(start: slot + Self.lengthSize, count: count))
    }

    func write(_ bytes: [UInt8]) {
        guard bytes.count <= Self.slotSize - Self.lengthSize else { return clear() }
        let next = unsafe current.pointee.load(ordering: .relaxed) == 1 ? 1 : 0 as UInt32
        let slot = unsafe slot(next)
        unsafe slot.storeBytes(of: UInt32(bytes.count), as: UInt32.self)
        // SAFETY: there is room for as many bytes, and the array lives for the call.
        unsafe bytes.withUnsafeBytes { bytes in
            unsafe UnsafeMutableRawBufferPointer(start: slot + Self.lengthSize, count: bytes.count)
                .copyMemory(from: bytes)
        }
        unsafe current.pointee.store(next + 1, ordering: .releasing)
    }

    func clear() { unsafe current.pointee.store(0, ordering: .releasing) }
}
