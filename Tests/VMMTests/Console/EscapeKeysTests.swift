import Core
import Testing

@testable import VMM

@Suite("Console")
struct ConsoleTests {
    @Test("Ctrl-A and a letter are for us, all else is for the guest")
    func keys() {
        var keys = EscapeKeys()
        let (output, commands) = keys.filter(Array("ls\u{1}xa\u{1}\u{1}\u{1}ab\u{1}hc\u{1}z".utf8))
        #expect(output == Array("lsa\u{1}\u{1}bc\u{1}z".utf8))
        #expect(commands == [.leave, .help])
    }

    @Test("an escape may be split between two reads")
    func split() {
        var keys = EscapeKeys()
        let first = keys.filter([1])
        let second = keys.filter(Array("x".utf8))
        #expect(first.commands.isEmpty && first.output.isEmpty)
        #expect(second.commands == [.leave])
    }

    @Test(
        "the first line of user space has no time stamp, and is not the kernel's",
        arguments: [
            ["[    0.0", "] Linux\r\n\r\n[    4.0] Run /sbin/init as init\r\n", "hel", "lo\r\n"],
            // As Linux 6.1 prints it with earlyprintk.
            [
                "[    0.146761] SLUB: HWalign=64\r\nPoking KASLR using RDTSC...\r\n",
                "[    0.149068] ftrace: allocating 37697 entries\r\n",
                "[    4.006221] Run /init as init process\r\n[    4.1] input: AT\r\n",
                "hello\r\n",
            ],
            // Kernels that print only warnings, and nothing.
            ["[    0.1] warning\r\n", "[    0.2] warning\r\n", "hello\r\n", "world\r\n"],
            ["\r\n", "hello\r\n"],
        ])
    func userLine(parts: [String]) {
        var finder = UserLineFinder()
        let found = parts.map { finder.feed(Array($0.utf8)) }
        #expect(found == parts.indices.map { $0 == parts.count - 1 })
    }
}
