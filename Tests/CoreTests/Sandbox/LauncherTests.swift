import Testing

@testable import Core

@Suite("A launcher that somebody has taken over")
struct LauncherTests {
    @Test("is believed nothing", arguments: [.min, -4096, -1, 0, 1, .max] as [Int32])
    func lies(answer: Int32) throws {
        let (near, far) = try UnixSocket.pair()
        let launcher = Launcher(at: near)
        try far.send((0..<4).map { UInt8(truncatingIfNeeded: answer >> (24 - 8 * $0)) })
        let passed = try UnixSocket.pair().0.fd
        let error = #expect(throws: Launcher.Failure.self) {
            try launcher.launch(0, with: passed)
        }
        #expect(error?.description.hasPrefix("clone: ") == true)
    }

    @Test("is not asked again after half an answer")
    func short() throws {
        let (near, far) = try UnixSocket.pair()
        let launcher = Launcher(at: near)
        try far.send([0, 0, 0])
        let passed = try UnixSocket.pair().0.fd
        for _ in 0..<2 {
            let error = #expect(throws: Launcher.Failure.self) {
                try launcher.launch(0, with: passed)
            }
            #expect("\(error as Any)".contains("does not answer any more"))
        }
        // What was asked the first time.
        #expect(try far.receive(upTo: 8)?.bytes == [0])
        #expect(try far.receive(upTo: 8) == nil)
    }
}
