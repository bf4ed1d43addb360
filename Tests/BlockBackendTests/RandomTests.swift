import BlockBackend
import Core
import TestSupport
import Testing

/// Random requests, several at once, compared with a model of the disk.
@Suite struct RandomTests {
    /// A small generator, so that a seed repeats a run everywhere.
    private struct Random: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return state &* 0x2545_f491_4f6c_dd1d
        }
    }

    private struct Pending {
        var data: DriverBuffer?
        var status: DriverBuffer
        var expected: [UInt8]
    }

    @Test("the disk holds what a model says", arguments: Setting.all)
    func model(setting: Setting) throws {
        let sectors = 512
        var model = pattern(sectors * 512)
        let image = try ScratchImage(model)
        let disk = try TestDisk(setting.options(image), ring: setting.ring, memory: 64 << 20)
        var random = Random(state: 0x1234_5678_9abc_def1)
        for _ in 0..<60 {
            var pending: [UInt64: Pending] = [:]
            // Requests of a round do not overlap, so that their order does not matter.
            for part in 0..<8 {
                let first = part * 64 + Int.random(in: 0..<32, using: &random)
                let count = Int.random(in: 1...32, using: &random)
                let token = UInt64(part)
                pending[token] = issue(
                    disk, first: first, count: count, token: token, model: &model, &random)
            }
            for _ in 0..<8 {
                let used = try #require(try disk.nextUsed())
                let request = try #require(pending[used.token])
                pending[used.token] = nil
                #expect(disk.scratch.bytes(request.status) == [Wire.ok])
                if let data = request.data {
                    #expect(disk.scratch.bytes(data) == request.expected)
                }
            }
            if Int.random(in: 0..<8, using: &random) == 0 {
                disk.stop()
                try disk.start()
            }
        }
        #expect(try image.bytes == model)
    }

    private func issue(
        _ disk: TestDisk, first: Int, count: Int, token: UInt64, model: inout [UInt8],
        _ random: inout Random
    ) -> Pending {
        let bytes = first * 512..<(first + count) * 512
        let status = disk.scratch.place([Wire.untouched])
        let sector = UInt64(first)
        let style = DescriptorStyle.allCases.randomElement(using: &random) ?? .direct
        // Addresses that direct I/O cannot use come up now and then.
        let skew = Bool.random(using: &random) ? 0 : Int.random(in: 1..<512, using: &random)
        _ = disk.scratch.allocate(1, alignment: 4096)
        _ = disk.scratch.allocate(4095 + skew, alignment: 1)
        switch Int.random(in: 0..<8, using: &random) {
        case 0..<3:
            let data = pattern(bytes.count, seed: random.next())
            model.replaceSubrange(bytes, with: data)
            let cut = Int.random(in: 1...bytes.count, using: &random)
            disk.submit(
                [disk.scratch.place(Wire.header(Wire.write, sector: sector))]
                    + disk.split(data, [cut]), [status], style: style, token: token)
            return Pending(data: nil, status: status, expected: [])
        case 3..<6:
            let data = DriverBuffer(
                disk.scratch.allocate(bytes.count, alignment: 1), UInt32(bytes.count))
            disk.submit(
                [disk.scratch.place(Wire.header(Wire.read, sector: sector))], [data, status],
                style: style, token: token)
            return Pending(data: data, status: status, expected: Array(model[bytes]))
        case 6:
            model.replaceSubrange(bytes, with: repeatElement(0, count: bytes.count))
            let isDiscard = Bool.random(using: &random)
            let range = Wire.range(sector, UInt32(count))
            let header = Wire.header(isDiscard ? Wire.discard : Wire.writeZeroes)
            disk.submit(
                [disk.scratch.place(header + range)], [status], style: style, token: token)
            return Pending(data: nil, status: status, expected: [])
        default:
            disk.submit(
                [disk.scratch.place(Wire.header(Wire.flush))], [status], style: style,
                token: token)
            return Pending(data: nil, status: status, expected: [])
        }
    }
}
