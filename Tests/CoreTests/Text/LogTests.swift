import Core
import Synchronization
import Testing

/// A log whose clock and lines belong to the test.
private final class Recorder: Sendable {
    private let lines = Mutex<[String]>([])
    private let time = Atomic<UInt64>(100_000_000_000)

    func makeLog(_ level: Log.Level) -> Log {
        Log("part", level: level, now: { self.time.load(ordering: .relaxed) }) { line in
            self.lines.withLock { $0.append(line) }
        }
    }

    func advance(seconds: UInt64) { time.add(seconds * 1_000_000_000, ordering: .relaxed) }

    var text: [String] { lines.withLock { $0 } }
}

@Suite("Log")
struct LogTests {
    @Test("a line has the level, the component and the message")
    func line() {
        let recorder = Recorder()
        recorder.makeLog(.warning)(.warning, "the disk is odd")
        #expect(recorder.text.count == 1)
        #expect(recorder.text.first?.hasSuffix(": warning: part: the disk is odd\n") == true)
    }

    @Test("messages that are not shown are not built")
    func lazy() {
        let recorder = Recorder()
        var built = 0
        func message() -> String {
            built += 1
            return "x"
        }
        let log = recorder.makeLog(.warning)
        log(.info, message())
        log(.debug, message())
        #expect(built == 0)
        #expect(recorder.text.isEmpty)
        log(.error, message())
        #expect(built == 1)
    }

    @Test("what repeats is told three times, and then summed up at growing distances")
    func repetition() {
        let counter = RepetitionCounter()
        var told: [UInt64] = []
        for count in 1...2000 as ClosedRange<UInt64> {
            switch counter.next() {
            case .none: break
            case .one: told.append(count)
            case .sum(let sum):
                #expect(sum == count)
                told.append(count)
            }
        }
        #expect(told == [1, 2, 3, 10, 100, 1000])
    }

    @Test("a guest's mistakes are limited, and what was dropped is counted")
    func limited() {
        let recorder = Recorder()
        let log = recorder.makeLog(.warning)
        for index in 0..<100 { log.guest("mistake \(index)") }
        #expect(recorder.text.count == 5)
        recorder.advance(seconds: 6)
        log.guest("mistake 100")
        #expect(recorder.text.count == 7)
        #expect(recorder.text[5].hasSuffix("95 more messages were not shown\n"))
        #expect(recorder.text[6].hasSuffix("mistake 100\n"))
    }
}
