@testable import BlockBackend
import Core
import Testing

@Suite struct CommandTests {
    /// What a command line leads to, or the sentence with which it is refused.
    private func outcome(_ arguments: String...) -> Result<BlockCommand.Action, OptionError> {
        do throws(OptionError) {
            return .success(try BlockCommand(arguments).action)
        } catch {
            return .failure(error)
        }
    }

    private func refusal(_ text: String) -> Result<BlockCommand.Action, OptionError> {
        .failure(OptionError(text))
    }

    @Test("a disk is described by keys and values")
    func disk() {
        var options = BlockOptions(path: "a,b.img")
        options.isReadOnly = true
        options.isDirect = true
        options.engine = .aio
        options.queueCount = 2
        options.maximumQueueSize = 256
        options.serial = "x"
        options.isWriteback = false
        options.allowsDiscard = false
        options.blockSize = 4096
        options.isLocked = false
        let text =
            "path=\"a,b.img\",readonly=on,direct=on,engine=aio,num-queues=2,queue-size=256,"
            + "serial=x,format=raw,writeback=off,discard=off,block-size=4096,lock=off"
        #expect(
            outcome("--socket-path", "s", "--disk", text)
                == .success(.serve(.path("s"), .path, options)))
    }

    @Test("the conventional options do the same")
    func conventional() {
        var options = BlockOptions(path: "disk.img")
        #expect(
            outcome("--fd=3", "--blk-file=disk.img")
                == .success(.serve(.inherited(3), .path, options)))
        options.isReadOnly = true
        #expect(
            outcome("--socket-path=/s", "--blk-file=disk.img", "--read-only")
                == .success(.serve(.path("/s"), .path, options)))
    }

    @Test(
        "helper threads are counted",
        arguments: [("", nil), (",threads=0", 0), (",threads=64", 64)] as [(String, Int?)])
    func threads(text: String, count: Int?) {
        var options = BlockOptions(path: "d")
        options.engine = .threads
        options.helperCount = count
        #expect(
            outcome("--fd=3", "--disk", "path=d,engine=threads\(text)")
                == .success(.serve(.inherited(3), .path, options)))
    }

    @Test("capabilities are printed whatever else is said")
    func capabilities() {
        #expect(
            outcome("--nonsense", "--print-capabilities")
                == .success(.show(BlockCommand.capabilities)))
    }

    @Test("what makes no sense is refused with a sentence")
    func refusals() {
        #expect(outcome("--blk-file=d") == refusal("one of --socket-path and --fd is needed"))
        #expect(
            outcome("--blk-file=d", "--fd=3", "--socket-path=s")
                == refusal("--socket-path and --fd exclude each other"))
        #expect(outcome("--fd=3") == refusal("one of --disk and --blk-file is needed"))
        #expect(
            outcome("--fd=3", "--blk-file=d", "--disk", "path=d")
                == refusal("--disk and --blk-file exclude each other"))
        #expect(
            outcome("--fd=3", "--disk", "path=d,redonly=on")
                == refusal("--disk: unknown key 'redonly'; did you mean 'readonly'?"))
        #expect(
            outcome("--fd=3", "--disk", "path=d,serial=123456789012345678901")
                == refusal("--disk: serial: '123456789012345678901' is longer than 20 bytes"))
        #expect(
            outcome("--fd=3", "--disk", "path=d,threads=65")
                == refusal("--disk: threads: 65 is not between 0 and 64"))
        #expect(
            outcome("--fd=3", "--disk", "path=d,threads=many")
                == refusal("--disk: threads: 'many' is not a whole number"))
        #expect(
            outcome("--fd=3", "--disk", "path=d,format=qcow2")
                == refusal("--disk: format: 'qcow2' is not one of raw"))
    }
}
