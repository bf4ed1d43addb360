internal import Core

/// A frame that this process sends by itself, by a queue with nothing else in it: so it takes the way
/// of a driver's frames.
struct Announcement {
    private enum Place {
        static let descriptors: UInt64 = 0
        static let driver: UInt64 = 64
        static let device: UInt64 = 128
        static let frame: UInt64 = 256
    }
    private static let memorySize = 4096

    let queue: Virtqueue
    let headerSize: UInt64
    private let memory: GuestMemory

    /// Reverse ARP's request of the station with this address (RFC 903), which shows switches where it
    /// is.
    /// - Parameter headerSize: that of the device's driver.
    init(of address: [UInt8], headerSize: UInt64) throws {
        self.headerSize = headerSize
        let bytes = [UInt8](repeating: 0, count: Int(headerSize)) + Self.frame(address)
        let mapping = try MemoryMapping(anonymous: Self.memorySize)
        let region = GuestRegion(
            start: GuestAddress(0), size: UInt64(Self.memorySize), mapping: mapping)
        memory = try GuestMemory(region.map { [$0] } ?? [])
        try memory.write(GuestAddress(Place.frame), bytes)
        try memory.write(GuestAddress(Place.descriptors), Place.frame)
        try memory.write(GuestAddress(Place.descriptors + 8), UInt32(bytes.count))
        // The available index.
        try memory.write(GuestAddress(Place.driver + 2), 1 as UInt16)
        let layout = QueueLayout(
            size: 1, descriptors: GuestAddress(Place.descriptors),
            driver: GuestAddress(Place.driver), device: GuestAddress(Place.device))
        queue = try Virtqueue(
            QueueSetup(
                layout: layout, features: VirtioFeature.version1, memory: memory,
                state: .freshSplit, kick: EventFD(), call: nil))
    }

    private static func frame(_ address: [UInt8]) -> [UInt8] {
        let none: [UInt8] = [0, 0, 0, 0]
        let header = [UInt8](repeating: 0xff, count: 6) + address + [0x80, 0x35]
        // Ethernet, IPv4, the lengths of their addresses, and what is asked: who am I?
        let question: [UInt8] = [0, 1, 8, 0, 6, 4, 0, 3]
        let frame = header + question + address + none + address + none
        return frame + [UInt8](repeating: 0, count: 60 - frame.count)
    }

    var isSent: Bool {
        (try? memory.read(GuestAddress(Place.device + 2), as: UInt16.self)) == 1
    }
}
