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

    @Test("the first line without a time stamp is user space's")
    func userLine() {
        var finder = UserLineFinder()
        let parts = ["[    0.000000] Linux version 6.1\r\n\r\n[    0.1", "] x\r\nhel", "lo\r\n"]
        let found = parts.map { finder.feed(Array($0.utf8)) }
        #expect(found == [false, false, true])
    }

    @Test("lines that the kernel writes past its log while its clock stands are its own")
    func earlyLine() {
        var finder = UserLineFinder()
        // As Linux 6.1 prints it with earlyprintk.
        let parts = [
            "[    0.000000] kvm-clock: using sched offset\r\nPoking KASLR using RDTSC...\r\n",
            "[    0.004000] Zone ranges:\r\n", "initramfs: powering off\r\n",
        ]
        let found = parts.map { finder.feed(Array($0.utf8)) }
        #expect(found == [false, false, true])
    }

    @Test("a quiet kernel's user space begins with the first line")
    func quietKernel() {
        var finder = UserLineFinder()
        #expect(finder.feed(Array("hello\r\n".utf8)))
    }
}
