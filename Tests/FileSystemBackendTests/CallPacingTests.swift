import Testing

@testable import FileSystemBackend

@Suite("When a driver is told of answers") struct CallPacingTests {
    /// The numbers, from 1, of the answers of which a driver is told, if that many requests wait and
    /// each takes so many nanoseconds. It asks once.
    private func calls(waiting: Int, nanoseconds: UInt64) -> [Int] {
        var pacing = CallPacing()
        var now: UInt64 = 1 << 40
        pacing.begin(at: now)
        var calls: [Int] = []
        for number in 1...waiting {
            now += nanoseconds
            let isTold = pacing.end(number == 1, at: now) { $0 <= waiting - number }
            if isTold { calls.append(number) }
        }
        if pacing.takeOwed() { calls.append(waiting) }
        return calls
    }

    @Test("at once, if nothing else waits")
    func alone() { #expect(calls(waiting: 1, nanoseconds: 1000) == [1]) }

    @Test("of several short ones, while there is still something to do")
    func several() {
        #expect(calls(waiting: 16, nanoseconds: 1000) == [5])
        #expect(calls(waiting: 128, nanoseconds: 1000) == [33])
    }

    @Test("at once of what took long, and soon of what takes rather long")
    func long() {
        #expect(calls(waiting: 16, nanoseconds: 60_000) == [1])
        #expect(calls(waiting: 16, nanoseconds: 30_000) == [3])
    }

    @Test("once for what it asked once, and not if it did not ask")
    func unasked() {
        var pacing = CallPacing()
        pacing.begin(at: 0)
        let told = [
            pacing.end(false, at: 10) { _ in false }, pacing.takeOwed(),
            pacing.end(true, at: 20) { _ in true }, pacing.takeOwed(), pacing.takeOwed(),
        ]
        #expect(told == [false, false, false, true, false])
    }
}
