/// A packet of TCP or UDP as tests build and check it, byte by byte.
struct TestPacket {
    var isIPv6 = false
    var isUDP = false
    /// Tags of VLANs before the type.
    var tags = 0
    /// Bytes of options for hops (IPv6), or of IPv4; multiples of 8 and 4.
    var options = 0
    var flags: UInt8 = 0x18
    var sequence: UInt32 = 0xffff_ff00
    var id: UInt16 = 0xfffe
    var data: [UInt8]

    static func half(_ number: Int) -> [UInt8] {
        [UInt8(truncatingIfNeeded: number >> 8), UInt8(truncatingIfNeeded: number)]
    }

    var network: Int { 14 + 4 * tags }
    var transport: Int { network + (isIPv6 ? 40 : 20) + options }
    var headerLength: Int { transport + (isUDP ? 8 : 32) }
    var checksumOffset: Int { isUDP ? 6 : 16 }

    /// The frame with the sum of the pseudo header where the checksum belongs, as a driver leaves it.
    var unfinished: [UInt8] {
        var frame: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]
        for _ in 0..<tags { frame += [0x81, 0, 0, 5] }
        frame += isIPv6 ? [0x86, 0xdd] : [8, 0]
        let size = (isUDP ? 8 : 32) + data.count
        let kind: UInt8 = isUDP ? 17 : 6
        if isIPv6 {
            frame += [0x60, 0, 0, 0] + Self.half(options + size) + [options > 0 ? 0 : kind, 64]
            frame += [UInt8](repeating: 0xfd, count: 16) + [UInt8](repeating: 0xfe, count: 16)
            if options > 0 {
                frame += [kind, UInt8(options / 8 - 1)]
                frame += [UInt8](repeating: 0, count: options - 2)
            }
        } else {
            let start = frame.count
            frame += [0x45 + UInt8(options / 4), 0] + Self.half(20 + options + size)
            frame += Self.half(Int(id)) + [0x40, 0, 64, kind, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
            frame += [UInt8](repeating: 1, count: options)
            let sum = Self.half(0xffff - Self.sum(Array(frame[start...])))
            frame.replaceSubrange(start + 10..<start + 12, with: sum)
        }
        let pseudo = Self.half(Self.sum(addresses(frame) + [0, kind] + Self.half(size)))
        if isUDP {
            frame += [0x10, 0, 0x20, 0] + Self.half(size) + pseudo
        } else {
            frame += [0x10, 0, 0x20, 0]
            frame += [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: sequence >> $0) }
            frame += [0, 0, 0, 9, 0x80, flags, 1, 0] + pseudo + [0, 0]
            frame += [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]
        }
        return frame + data
    }

    private func addresses(_ frame: [UInt8]) -> [UInt8] {
        Array(isIPv6 ? frame[network + 8..<network + 40] : frame[network + 12..<network + 20])
    }

    /// The sum of words in ones' complement.
    static func sum(_ bytes: [UInt8]) -> Int {
        var sum = 0
        for (index, byte) in bytes.enumerated() {
            sum += index & 1 == 0 ? Int(byte) << 8 : Int(byte)
            if sum > 0xffff { sum -= 0xffff }
        }
        return sum
    }

    /// With the checksum.
    var finished: [UInt8] {
        var frame = unfinished
        let place = transport + checksumOffset
        let sum = 0xffff - Self.sum(Array(frame[transport...]))
        frame.replaceSubrange(place..<place + 2, with: Self.half(sum == 0 ? 0xffff : sum))
        return frame
    }

    /// What the packet becomes when it is sent in segments.
    func segments(of size: Int) -> [[UInt8]] {
        stride(from: 0, to: data.count, by: size).enumerated().map { index, start in
            var segment = self
            segment.data = Array(data[start..<min(start + size, data.count)])
            segment.sequence = sequence &+ UInt32(start)
            segment.id = id &+ UInt16(index)
            if start + size < data.count { segment.flags &= ~9 }
            if index > 0 { segment.flags &= 0x7f }
            return segment.finished
        }
    }

    /// The driver's header.
    /// - Parameter kind: VIRTIO_NET_HDR_GSO_...
    func header(kind: UInt8, size: Int) -> [UInt8] {
        func low(_ number: Int) -> [UInt8] { Self.half(number).reversed() }
        return [1, kind] + low(headerLength) + low(size) + low(transport) + low(checksumOffset)
            + [0, 0]
    }
}
