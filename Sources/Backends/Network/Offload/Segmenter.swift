internal import CLinux
internal import Core
internal import Glibc

/// What a driver says before a frame (VIRTIO 1.3, section 5.1.6).
struct OffloadRequest: Equatable {
    enum Segments: UInt8 {
        case none = 0
        case tcp4 = 1
        case tcp6 = 4
        case udp = 5
    }

    /// VIRTIO_NET_HDR_F_NEEDS_CSUM
    private static let needsChecksum: UInt8 = 1
    /// VIRTIO_NET_HDR_GSO_ECN
    private static let congestion: UInt8 = 0x80

    let segments: Segments
    let segmentSize: Int
    let checksumStart: Int
    let checksumOffset: Int

    /// - Returns: `nil` if the driver asks for what it has not accepted, or does not exist.
    init?(_ chain: DescriptorChain, features: UInt64) {
        guard let word = chain.read(at: 0, as: UInt64.self)?.littleEndian,
            let last = chain.read(at: 8, as: UInt16.self)?.littleEndian
        else { return nil }
        self.init(header: word, checksumOffset: last, features: features)
    }

    /// - Parameter header: its first eight bytes.
    init?(header word: UInt64, checksumOffset last: UInt16, features: UInt64) {
        let kind = UInt8(truncatingIfNeeded: word >> 8)
        // Other flags are not a driver's to set, and are ignored (VIRTIO 1.3, section 5.1.6.2.2).
        guard UInt8(truncatingIfNeeded: word) & Self.needsChecksum != 0,
            features & NetworkFeature.checksum != 0,
            let segments = Segments(rawValue: kind & ~Self.congestion),
            segments == .none ? kind == 0 : features & segments.feature != 0
        else { return nil }
        self.segments = segments
        segmentSize = Int(UInt16(truncatingIfNeeded: word >> 32))
        checksumStart = Int(UInt16(truncatingIfNeeded: word >> 48))
        checksumOffset = Int(last)
    }
}

extension OffloadRequest.Segments {
    /// The feature that lets a driver leave them to the device.
    var feature: UInt64 {
        switch self {
        case .none: NetworkFeature.checksum
        case .tcp4: NetworkFeature.hostTSO4
        case .tcp6: NetworkFeature.hostTSO6
        case .udp: NetworkFeature.hostUSO
        }
    }
}

/// Does what a driver has left to the device, for up-links that carry finished frames only: cuts
/// packets into segments and computes checksums. Only headers are copied; the data stays in the
/// driver's buffers.
// SAFETY: `prefix` has `prefixLimit` bytes, of which `prefixCount` are the frame's. Headers that the
// batch gives out are as long as was asked for.
@safe final class Segmenter {
    /// The longest header: Ethernet with two tags, IPv6 with extensions, TCP with options.
    static let prefixLimit = 256
    /// A packet of 64 KiB in the smallest segments that Linux makes.
    static let segmentLimit = 1400

    private let prefix: UnsafeMutableRawPointer
    private var prefixCount = 0

    init() { unsafe prefix = .allocate(byteCount: Self.prefixLimit, alignment: 8) }

    deinit { unsafe prefix.deallocate() }

    private var bytes: UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: prefix, count: prefixCount)
    }

    /// Adds the frame in the batch's free chain as one that is complete, or several.
    /// - Parameter skip: the length of the driver's header.
    /// - Returns: false, and nothing is added, if what is asked for makes no sense.
    func add(
        _ request: OffloadRequest, to batch: TransmitBatch, skipping skip: UInt64, hasLength: Bool
    ) -> Bool {
        let chain = batch.freeChain
        let length = Int(clamping: chain.readableLength - skip)
        prefixCount = unsafe chain.read(
            at: skip,
            into: UnsafeMutableRawBufferPointer(
                start: prefix, count: min(length, Self.prefixLimit)))
        if request.segments == .none {
            return addOne(request, length, to: batch, skip, hasLength)
        }
        guard
            let layout = unsafe PacketLayout(bytes, frameLength: length, trustsLength: false),
            layout.transport == request.checksumStart, layout.matches(request.segments),
            request.segmentSize > 0
        else { return false }
        let count = (length - layout.payload + request.segmentSize - 1) / request.segmentSize
        guard count > 0, count <= Self.segmentLimit else { return false }
        chain.trimReadable(first: skip + UInt64(layout.payload))
        addSegments(layout, request.segmentSize, count, length, to: batch, hasLength)
        batch.endChain()
        return true
    }

    // MARK: A checksum

    private func addOne(
        _ request: OffloadRequest, _ length: Int, to batch: TransmitBatch, _ skip: UInt64,
        _ hasLength: Bool
    ) -> Bool {
        let field = request.checksumStart + request.checksumOffset
        guard field + 2 <= prefixCount else { return false }
        let header = unsafe batch.addHeader(
            bytes, count: field + 2, frameLength: length, hasLength: hasLength)
        batch.freeChain.trimReadable(first: skip + UInt64(field + 2))
        var checksum = InternetChecksum()
        unsafe checksum.add(
            UnsafeRawBufferPointer(
                start: header + request.checksumStart, count: request.checksumOffset + 2))
        let buffers = unsafe batch.freeChain.readable
        for index in 0..<buffers.count {
            let part = unsafe buffers[index]
            unsafe checksum.add(UnsafeRawBufferPointer(start: part.iov_base, count: part.iov_len))
            unsafe batch.addPart(part)
        }
        unsafe Self.store(checksum, at: header + field)
        batch.endFrame()
        batch.endChain()
        return true
    }

    /// Zero would mean that there is none.
    private static func store(_ checksum: InternetChecksum, at place: UnsafeMutableRawPointer) {
        let value = checksum.complement
        unsafe place.storeBytes(of: value == 0 ? 0xffff : value, as: UInt16.self)
    }

    // MARK: Segments

    private func addSegments(
        _ layout: PacketLayout, _ size: Int, _ count: Int, _ length: Int, to batch: TransmitBatch,
        _ hasLength: Bool
    ) {
        let buffers = unsafe batch.freeChain.readable
        var buffer = 0
        var offset = 0
        for index in 0..<count {
            let dataLength = min(size, length - layout.payload - index * size)
            let header = unsafe batch.addHeader(
                bytes, count: layout.payload, frameLength: layout.payload + dataLength,
                hasLength: hasLength)
            unsafe layout.patch(
                header, dataLength: dataLength, index: index, isLast: index == count - 1,
                sequenceStep: index * size)
            var checksum = unsafe layout.checksum(header, dataLength: dataLength)
            var left = dataLength
            while left > 0, buffer < buffers.count {
                var part = unsafe buffers[buffer]
                unsafe part.iov_base += offset
                unsafe part.iov_len = min(part.iov_len - offset, left)
                unsafe checksum.add(
                    UnsafeRawBufferPointer(start: part.iov_base, count: part.iov_len))
                unsafe batch.addPart(part)
                left -= unsafe part.iov_len
                offset += unsafe part.iov_len
                if unsafe offset == buffers[buffer].iov_len {
                    buffer += 1
                    offset = 0
                }
            }
            unsafe Self.store(checksum, at: header + layout.checksumField)
            batch.endFrame()
        }
    }
}

// The headers of segments.
extension PacketLayout {
    func matches(_ segments: OffloadRequest.Segments) -> Bool {
        switch segments {
        case .none: false
        case .tcp4: kind == .tcp && !isIPv6
        case .tcp6: kind == .tcp && isIPv6
        case .udp: kind == .udp
        }
    }

    /// Where the checksum of TCP or UDP is.
    var checksumField: Int { transport + (kind == .tcp ? 16 : 6) }

    /// Makes the header of the whole packet that of one of its segments, but for the checksum of TCP
    /// or UDP, which becomes zero.
    /// - Parameter header: as long as `payload` says.
    func patch(
        _ header: UnsafeMutableRawPointer, dataLength: Int, index: Int, isLast: Bool,
        sequenceStep: Int
    ) {
        func put(_ number: Int, at offset: Int) {
            unsafe header.storeBytes(
                of: UInt16(truncatingIfNeeded: number).bigEndian, toByteOffset: offset,
                as: UInt16.self)
        }
        if isIPv6 {
            put(payload - network - 40 + dataLength, at: network + 4)
        } else {
            put(payload - network + dataLength, at: network + 2)
            let id = unsafe header.loadUnaligned(fromByteOffset: network + 4, as: UInt16.self)
            put(Int(UInt16(bigEndian: id)) + index, at: network + 4)
            put(0, at: network + 10)
            var checksum = InternetChecksum()
            unsafe checksum.add(
                UnsafeRawBufferPointer(start: header + network, count: transport - network))
            unsafe header.storeBytes(
                of: checksum.complement, toByteOffset: network + 10, as: UInt16.self)
        }
        put(0, at: checksumField)
        switch kind {
        case .udp: put(8 + dataLength, at: transport + 4)
        case .tcp:
            let sequence = unsafe UInt32(
                bigEndian: header.loadUnaligned(fromByteOffset: transport + 4, as: UInt32.self))
            unsafe header.storeBytes(
                of: (sequence &+ UInt32(truncatingIfNeeded: sequenceStep)).bigEndian,
                toByteOffset: transport + 4, as: UInt32.self)
            // FIN and PSH are the last one's, CWR the first one's.
            var flags = unsafe header.load(fromByteOffset: transport + 13, as: UInt8.self)
            if !isLast { flags &= ~0x09 }
            if index > 0 { flags &= ~0x80 }
            unsafe header.storeBytes(of: flags, toByteOffset: transport + 13, as: UInt8.self)
        }
    }

    /// The sum of the pseudo header and of the header of TCP or UDP.
    func checksum(_ header: UnsafeMutableRawPointer, dataLength: Int) -> InternetChecksum {
        var checksum = unsafe pseudoChecksum(
            UnsafeRawPointer(header), length: payload - transport + dataLength)
        unsafe checksum.add(
            UnsafeRawBufferPointer(start: header + transport, count: payload - transport))
        return checksum
    }

    /// The sum of addresses, protocol and length.
    func pseudoChecksum(_ header: UnsafeRawPointer, length: Int) -> InternetChecksum {
        var checksum = InternetChecksum()
        let (start, count) = isIPv6 ? (network + 8, 32) : (network + 12, 8)
        unsafe checksum.add(UnsafeRawBufferPointer(start: header + start, count: count))
        checksum.add(UInt16(kind.rawValue))
        checksum.add(UInt16(truncatingIfNeeded: length >> 16))
        checksum.add(UInt16(truncatingIfNeeded: length))
        return checksum
    }
}
