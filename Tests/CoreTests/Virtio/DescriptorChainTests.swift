import Core
import Glibc
import TestSupport
import Testing

@Suite("A descriptor chain")
struct DescriptorChainTests {
    /// A chain with readable pieces of 4 and 3 bytes, and writable pieces of 5, 1 and 2 bytes.
    private func makeChain() throws -> (DescriptorChain, RingPair) {
        let pair = try RingPair(.split)
        let scratch = pair.scratch
        _ = pair.send(
            readable: [scratch.place([0, 1, 2, 3]), scratch.place([4, 5, 6])],
            writable: [scratch.buffer(5), scratch.buffer(1), scratch.buffer(2)])
        let chain = DescriptorChain(capacity: 1)
        #expect(try pair.queue.pop(into: chain))
        return (chain, pair)
    }

    @Test(
        "reads what there is",
        arguments: [
            (0, 4, [0, 1, 2, 3]), (0, 7, [0, 1, 2, 3, 4, 5, 6]), (3, 2, [3, 4]), (4, 1, [4]),
            (6, 9, [6]), (7, 1, []), (UInt64.max, 4, []), (2, 0, []), (2, -1, []),
        ] as [(UInt64, Int, [UInt8])])
    func reads(offset: UInt64, count: Int, expected: [UInt8]) throws {
        let (chain, pair) = try makeChain()
        #expect(chain.readBytes(at: offset, count: count) == expected)
        withExtendedLifetime(pair) {}
    }

    @Test("reads values across pieces, or not at all")
    func readsValues() throws {
        let (chain, pair) = try makeChain()
        #expect(chain.read(at: 2, as: UInt32.self) == 0x0504_0302)
        #expect(chain.read(at: 3, as: UInt32.self) == 0x0605_0403)
        #expect(chain.read(at: 4, as: UInt32.self) == nil)
        #expect(chain.read(at: 6, as: UInt8.self) == 6)
        withExtendedLifetime(pair) {}
    }

    @Test(
        "writes where there is room",
        arguments: [(0, 8, 8), (4, 3, 3), (5, 9, 3), (7, 1, 1), (8, 1, 0), (UInt64.max, 1, 0)]
            as [(UInt64, Int, Int)])
    func writes(offset: UInt64, count: Int, expected: Int) throws {
        let (chain, pair) = try makeChain()
        #expect(chain.write(at: offset, [UInt8](repeating: 0xaa, count: count)) == expected)
        withExtendedLifetime(pair) {}
    }

    @Test("writes values across pieces, or says that it could not")
    func writesValues() throws {
        let (chain, pair) = try makeChain()
        #expect(chain.write(at: 4, 0x0403_0201 as UInt32))
        #expect(!chain.write(at: 6, 0 as UInt32))
        #expect(chain.write(at: 7, 9 as UInt8))
        withExtendedLifetime(pair) {}
    }

    @Test("trims the working copy, not the buffers")
    func trims() throws {
        let (chain, pair) = try makeChain()
        chain.trimReadable(first: 5)
        #expect(chain.readableLengths == [2])
        chain.trimWritable(last: 1)
        #expect(chain.writableLengths == [5, 1, 1])
        chain.trimWritable(last: 2)
        #expect(chain.writableLengths == [5])
        chain.trimWritable(first: 2)
        #expect(chain.writableLengths == [3])
        chain.trimWritable(last: 100)
        chain.trimReadable(first: 100)
        #expect(chain.writableLengths == [])
        #expect(chain.readableLengths == [])
        #expect(chain.readableLength == 7)
        #expect(chain.readBytes(at: 0, count: 3) == [0, 1, 2])
        #expect(chain.write(at: 0, [UInt8](repeating: 1, count: 8)) == 8)
        withExtendedLifetime(pair) {}
    }

    @Test("points at the driver's buffers")
    func pointsAtBuffers() throws {
        let (chain, pair) = try makeChain()
        // SAFETY: the chain's pieces are mapped as long as `pair` lives.
        unsafe chain.readable[1].iov_base.storeBytes(of: 0x77, as: UInt8.self)
        #expect(chain.readBytes(at: 4, count: 1) == [0x77])
        withExtendedLifetime(pair) {}
    }

    @Test("can be used again")
    func reuse() throws {
        let (chain, pair) = try makeChain()
        chain.trimReadable(first: 100)
        _ = pair.send(readable: [pair.scratch.place([8])], writable: [])
        #expect(try pair.queue.pop(into: chain))
        #expect(chain.readableLengths == [1])
        #expect(chain.writableLengths == [])
        #expect(chain.readBytes(at: 0, count: 9) == [8])
    }
}
